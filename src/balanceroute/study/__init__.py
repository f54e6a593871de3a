"""Studies over many runs: sensitivity to each setting, and the distance to the step optimum."""
