"""BalanceRoute: keep every data-parallel rank of an LLM serving group equally loaded."""

__version__ = "0.1.0"
