"""Published figures beside ours: what ``make reproduce`` runs and writes."""
