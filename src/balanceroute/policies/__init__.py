"""Routing policies: which waiting request goes to which rank."""
