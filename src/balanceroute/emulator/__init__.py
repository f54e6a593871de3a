"""A server that behaves like vLLM with data-parallel ranks in lockstep, without a GPU."""
