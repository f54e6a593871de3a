"""A simulator of barrier-synchronised ranks that runs the policies a router would run."""
