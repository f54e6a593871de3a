"""Slots that are refilled the moment they fall free: the attention side of an AFD bundle."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from balanceroute.kernels.jit import bare_kernel
from balanceroute.kernels.ledger import Int64Array

NONE = -1


class Slots(NamedTuple):
    """State of r workers with B slots each; slot i belongs to worker ``i // B``.

    Attributes
    ----------
    load_tokens : int64 array, shape (r,)
        Resident tokens of each worker.
    end_tokens : int64 array, shape (r * B,)
        Tokens that the request in each slot holds when it ends.
    after : int64 array, shape (r * B,)
        Another slot that ends in the same step, or `NONE`.
    calendar : int64 array, shape (longest output + 1,) or longer
        A slot that ends in each step, modulo the length, or `NONE`.
    """

    load_tokens: Int64Array
    end_tokens: Int64Array
    after: Int64Array
    calendar: Int64Array


@bare_kernel
def start_request(
    slots: Slots, slot: int, prompt_tokens: int, output_tokens: int, age: int, step: int
) -> None:
    """Let a request that has `age` of its output run in `slot` from `step` on."""
    num_slots = len(slots.after) // len(slots.load_tokens)
    slots.load_tokens[slot // num_slots] += prompt_tokens + age
    slots.end_tokens[slot] = prompt_tokens + output_tokens
    day = (step + output_tokens - age - 1) % len(slots.calendar)
    slots.after[slot] = slots.calendar[day]
    slots.calendar[day] = slot


@bare_kernel
def fill_slots(
    slots: Slots,
    prompt_tokens: NDArray[np.int32],
    output_tokens: NDArray[np.int32],
    rows: Int64Array,
    ages: Int64Array,
) -> None:
    """Before step 0, give slot i row ``rows[i]`` of the workload at age ``ages[i]``."""
    for slot in range(len(rows)):
        prompt, output = int(prompt_tokens[rows[slot]]), int(output_tokens[rows[slot]])
        start_request(slots, slot, prompt, output, ages[slot], 0)


@bare_kernel
def run_slots(
    slots: Slots,
    prompt_tokens: NDArray[np.int32],
    output_tokens: NDArray[np.int32],
    order: Int64Array,
    load_tokens: Int64Array,
    stride: int,
) -> int:
    """Run steps and log their loads: O(r) a step and O(1) per request that ends.

    A worker's load grows by one token per slot and step, and who ends when is in the calendar.

    Parameters
    ----------
    slots : Slots
        Filled; changed.
    prompt_tokens, output_tokens : int32 array, shape (N,)
        The workload.
    order : int64 array, shape (K,)
        Its rows in the order in which they refill slots; after the last comes the first again.
    load_tokens : int64 array, shape (T, r)
        Written: load of each worker after admission, in every `stride`-th step from the first on.
    stride : int
        At least 1; the run has ``stride * T`` steps.

    Returns
    -------
    int
        How many requests ended.

    Examples
    --------
    Two workers with one slot each, requests of 10 + 2 and 30 + 1 tokens in turn:

    >>> prompts, outputs = np.array([10, 30], np.int32), np.array([2, 1], np.int32)
    >>> none = np.full(3, NONE)
    >>> slots = Slots(np.zeros(2, np.int64), np.zeros(2, np.int64), none[:2].copy(), none)
    >>> fill_slots(slots, prompts, outputs, np.array([0, 1]), np.array([0, 0]))
    >>> loads = np.zeros((3, 2), np.int64)
    >>> run_slots(slots, prompts, outputs, np.array([0, 1]), loads, 1)
    4
    >>> loads.tolist()
    [[10, 30], [11, 10], [30, 11]]
    """
    loads, calendar = slots.load_tokens, slots.calendar
    num_slots = len(slots.after) // len(loads)
    num_ended, cursor = 0, 0
    for step in range(stride * len(load_tokens)):
        for g in range(len(loads)):
            if step % stride == 0:
                load_tokens[step // stride, g] = loads[g]
            loads[g] += num_slots
        day = step % len(calendar)
        slot = calendar[day]
        calendar[day] = NONE
        while slot != NONE:
            coming = slots.after[slot]
            loads[slot // num_slots] -= slots.end_tokens[slot]
            row = order[cursor]
            cursor = cursor + 1 if cursor + 1 < len(order) else 0
            prompt, output = int(prompt_tokens[row]), int(output_tokens[row])
            start_request(slots, slot, prompt, output, 0, step + 1)
            num_ended += 1
            slot = coming
    return num_ended
