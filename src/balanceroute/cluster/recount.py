"""A second way to a ledger's totals, to check the running ones."""

from __future__ import annotations

import numpy as np

from balanceroute.kernels.ledger import DECODING, FREE, RANK_ACCOUNT, WAITING, Accounts, RecordArray


def recount(accounts: Accounts) -> RecordArray:
    """Add up the accounts per rank anew from the requests; see `Ledger.recount`."""
    ranks, entries = accounts.ranks, accounts.entries
    fresh = np.zeros(len(ranks), RANK_ACCOUNT)
    for counter in ("clock", "generated_tokens"):
        fresh[counter] = ranks[counter]
    for entry in entries[entries["state"] != FREE]:
        there = fresh[entry["rank"]]
        there["due_tokens"] += entry["due_tokens"]
        if entry["state"] == WAITING:
            there["num_waiting"] += 1
            continue
        there["num_running"] += 1
        there["prompt_tokens"] += entry["prompt_tokens"]
        there["load_tokens"] += entry["base_tokens"]
        if entry["state"] == DECODING:
            there["num_decoding"] += 1
            there["load_tokens"] += there["clock"]
    return fresh
