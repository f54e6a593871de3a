"""What latency and memory allow, and what a million tokens cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from balanceroute.afd.cycle import Bundle, pipeline_s
from balanceroute.afd.loads import worker_load
from balanceroute.afd.optimum import CycleTime, Weights, throughput
from balanceroute.afd.slots import SlotLoad, slot_load
from balanceroute.errors import ConfigError
from balanceroute.types import Workload

SAFE_PROB = 0.999  # with which a worker's requests shall fit its KV memory
MOST_SLOTS = 4096  # searched for
DEFAULT_SLOTS = 128
TOKENS, S_PER_HOUR = 1e6, 3600.0


def workers_within(
    bundle: Bundle, cycle_time: CycleTime, tpot_s: float, choices: Sequence[int]
) -> list[int]:
    """Return the choices of r whose TPOT, m·τ, is at most `tpot_s`.

    Raises
    ------
    ConfigError
        If none is; the message says what the least TPOT is.
    """
    least = {r: bundle.num_microbatches * cycle_time(r) for r in choices}
    fitting = [r for r, taken_s in least.items() if taken_s <= tpot_s]
    if fitting:
        return fitting
    best = min(least, key=lambda r: least[r])
    raise ConfigError(
        f"no bundle gives a TPOT of {tpot_s * 1000:g} ms: the least with {bundle.num_slots} "
        f"slots and {bundle.num_microbatches} microbatches is {least[best] * 1000:.1f} ms, at "
        f"r = {best}; "
        "allow that, or lower --slots or --microbatches"
    )


def slots_within(
    slot: SlotLoad, bundle: Bundle, num_workers: int, left: float, tpot_s: float
) -> int:
    """Return the largest B whose TPOT at r is at most `tpot_s`; 0 if none.

    `left` is the part of the barrier that routing leaves, 1 without a policy.
    """

    def fits(num_slots: int) -> bool:
        other = replace(bundle, num_slots=num_slots)
        load = worker_load(slot, num_slots).squeezed(left)
        return bundle.num_microbatches * pipeline_s(other, load, num_workers) <= tpot_s

    return _largest(fits)


def kv_tokens_needed(slot: SlotLoad, bundle: Bundle) -> float:
    """Return the tokens that a worker's m·B requests stay below 999 times in 1,000."""
    return worker_load(slot, bundle.num_microbatches * bundle.num_slots).quantile(SAFE_PROB)


def most_slots(slot: SlotLoad, bundle: Bundle, kv_tokens: int) -> int:
    """Return the largest B whose m·B requests fit `kv_tokens` 999 times in 1,000; 0 if none."""

    def fits(num_slots: int) -> bool:
        return kv_tokens_needed(slot, replace(bundle, num_slots=num_slots)) <= kv_tokens

    return _largest(fits)


def _largest(fits: Callable[[int], bool]) -> int:
    """Return the largest number up to `MOST_SLOTS` that fits, where all below it do; 0 if none."""
    low, high = 0, 1
    while high <= MOST_SLOTS and fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def default_slots(workload: Workload, bundle: Bundle) -> Bundle:
    """Return the bundle with the largest power of two for B, up to 128, that fits its memory.

    Raises
    ------
    ConfigError
        If not even one slot fits.
    """
    slot, kv_tokens = slot_load(workload), bundle.profile.attention.kv_tokens
    choice = replace(bundle, num_slots=DEFAULT_SLOTS)
    while kv_tokens is not None and kv_tokens_needed(slot, choice) > kv_tokens:
        if choice.num_slots == 1:
            check_memory(slot, choice)
        choice = replace(bundle, num_slots=choice.num_slots // 2)
    return choice


def check_memory(slot: SlotLoad, bundle: Bundle) -> int | None:
    """Return the largest B that fits a worker's KV memory; None where the profile has no size.

    Raises
    ------
    ConfigError
        If the bundle's B is larger than that.
    """
    kv_tokens = bundle.profile.attention.kv_tokens
    if kv_tokens is None:
        return None
    largest = most_slots(slot, bundle, kv_tokens)
    if bundle.num_slots <= largest:
        return largest
    needed = kv_tokens_needed(slot, bundle)
    cure = f"--slots {largest} fits" if largest else "not even one slot fits, so take a larger one"
    if bundle.num_microbatches > 1:
        cure += "; fewer --microbatches hold less"
    raise ConfigError(
        f"memory is too small for the batch: {bundle.num_microbatches} × {bundle.num_slots} "
        f"requests hold up to {needed:,.0f} KV tokens, an attention worker of "
        f"{bundle.profile.name} has {kv_tokens:,}; {cure}"
    )


def cost_per_million(
    bundle: Bundle, prices_per_hour: Weights, num_workers: float, cycle_s: float
) -> float:
    """Return what a million output tokens cost, given the price of each kind of worker per hour."""
    per_price = throughput(bundle, prices_per_hour, num_workers, cycle_s)
    return TOKENS / (per_price * S_PER_HOUR)
