"""Decisions for gateways that carry the requests themselves."""
