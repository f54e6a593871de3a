"""Whether imbalance is a problem here: from a running group's metrics, or from a trace."""
