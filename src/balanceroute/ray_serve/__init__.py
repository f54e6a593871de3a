"""A request router for Ray Serve: the policies and the ledger of this package among replicas."""
