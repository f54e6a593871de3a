"""Attention and FFN on separate devices: how many of each, from a trace, and simulated bundles."""
