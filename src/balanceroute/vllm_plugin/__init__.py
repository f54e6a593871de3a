"""BalanceRoute inside vLLM: ranks chosen by its policies in vLLM's own data-parallel client.

Nothing here imports vLLM, except through the objects that vLLM hands over, until `hooks.install`.
"""
