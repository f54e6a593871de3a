"""What a step of a running engine costs, measured by controlled load."""
