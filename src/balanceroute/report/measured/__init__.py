"""Runs against servers: their result document, their table, and their place beside a simulation."""
