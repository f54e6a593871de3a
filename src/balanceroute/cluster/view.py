"""What a policy may see of the group and of the pool."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from balanceroute.cluster.costs import StepCosts
from balanceroute.cluster.events import NO_EVENTS
from balanceroute.cluster.ledger import UNLIMITED_TOKENS
from balanceroute.cluster.traits import Integers, request_traits
from balanceroute.errors import ConfigError
from balanceroute.kernels.ages import ages_tokens
from balanceroute.kernels.ledger import Int64Array, RecordArray
from balanceroute.kernels.sight import NO_LIMIT as NO_LIMIT


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupView:
    """The group as the router knows it when a policy plans; arrays are for reading only.

    Attributes
    ----------
    now_s : float
        Time, seconds.
    is_immediate : bool
        True when a rank is chosen on arrival and may queue the request; False when the router
        holds requests until a slot is free.
    num_slots, kv_capacity_tokens : int64 array, shape (G,)
        What each rank can hold: running requests (0 while a rank is away), and KV tokens (2**62 if
        unlimited).
    load_tokens : int64 array, shape (G,)
        Resident KV tokens L.
    due_tokens : int64 array, shape (G,)
        Tokens of requests sent to the rank that are not resident yet.
    resident_prompt_tokens : int64 array, shape (G,)
        Prompt tokens of the running requests.
    generated_tokens : int64 array, shape (G,)
        Output tokens of the rank since the start.
    num_running_reqs, num_waiting_reqs : int64 array, shape (G,)
        Requests that run, and that wait in the rank's own queue.
    num_inflight_reqs : int64 array, shape (G,)
        Requests the router has sent and not seen finish; exact however old the rest is.
    kappa0_tokens : float
        Tokens that make a step as much longer as one more running request does.
    speeds : float64 array, shape (G,), or None
        Speed of each rank relative to the fastest, in (0, 1]; None: all are equal.
    costs : StepCosts or None
        What a step costs; None: unknown. Its `kappa0_tokens` is the one above.
    entries : ENTRY_ACCOUNT array, shape (capacity,), or None
        Requests in flight by handle (`balanceroute.kernels.ledger`), as old as the loads; those of
        state `FREE` are none. None unless the policy follows requests.
    clocks : int64 array, shape (G,), or None
        The ranks' clocks, to which `entries` refer.
    events : REQUEST_EVENT array, shape (number of events,)
        What has happened to requests, as far as the entries show it, since the last view that the
        policy was handed, oldest first. Empty unless the policy follows requests.
    passed_over : int64 array, shape (3, G), or None
        Number, resident tokens and prompt tokens of requests in `entries` that the sums leave out,
        since they end for certain before what is sent now is computed. None: all are counted.
    """

    now_s: float
    is_immediate: bool
    num_slots: Int64Array
    kv_capacity_tokens: Int64Array
    load_tokens: Int64Array
    due_tokens: Int64Array
    resident_prompt_tokens: Int64Array
    generated_tokens: Int64Array
    num_running_reqs: Int64Array
    num_waiting_reqs: Int64Array
    num_inflight_reqs: Int64Array
    kappa0_tokens: float = 0.0
    speeds: NDArray[np.float64] | None = None
    costs: StepCosts | None = None
    entries: RecordArray | None = None
    clocks: Int64Array | None = None
    events: RecordArray = field(default_factory=lambda: NO_EVENTS)
    passed_over: Int64Array | None = None

    @staticmethod
    def of_accounts(
        seen: RecordArray,
        actual: RecordArray,
        *,
        now_s: float,
        is_immediate: bool,
        num_slots: Int64Array,
        kv_capacity_tokens: Int64Array,
        kappa0_tokens: float = 0.0,
        speeds: NDArray[np.float64] | None = None,
        costs: StepCosts | None = None,
        entries: RecordArray | None = None,
        events: RecordArray = NO_EVENTS,
    ) -> GroupView:
        """Return the view that a ledger's accounts give.

        Parameters
        ----------
        seen, actual : RANK_ACCOUNT array, shape (G,)
            The accounts as the router was last told, and as they are: requests in flight are
            counted from the latter. The same array twice if nothing is stale.
        now_s, is_immediate, num_slots, kv_capacity_tokens, kappa0_tokens, speeds, costs, entries
            As the attributes.
        events
            As the attribute, with `entries`.
        """
        return GroupView(
            now_s=now_s,
            is_immediate=is_immediate,
            num_slots=num_slots,
            kv_capacity_tokens=kv_capacity_tokens,
            load_tokens=seen["load_tokens"],
            due_tokens=seen["due_tokens"],
            resident_prompt_tokens=seen["prompt_tokens"],
            generated_tokens=seen["generated_tokens"],
            num_running_reqs=seen["num_running"],
            num_waiting_reqs=seen["num_waiting"],
            num_inflight_reqs=actual["num_running"] + actual["num_waiting"],
            kappa0_tokens=kappa0_tokens,
            speeds=speeds,
            costs=costs,
            entries=entries,
            clocks=None if entries is None else seen["clock"],
            events=events,
        )

    def with_requests(
        self, entries: RecordArray, clocks: Int64Array, events: RecordArray
    ) -> GroupView:
        """Return the view as it is handed to a policy that follows requests; see the attributes."""
        return replace(self, entries=entries, clocks=clocks, events=events)

    @property
    def num_ranks(self) -> int:
        """Return G."""
        return len(self.load_tokens)

    def ages_tokens(self, handles: Int64Array) -> Int64Array:
        """Return the output tokens so far of requests in flight.

        Parameters
        ----------
        handles : int64 array, shape (N,)
            Rows of `entries`.

        Returns
        -------
        int64 array, shape (N,)
            At least 0.

        Raises
        ------
        ConfigError
            If the view shows no requests.
        """
        if self.entries is None or self.clocks is None:
            raise ConfigError("this view shows no requests; set follows_requests on the policy")
        tokens: Int64Array = ages_tokens(self.entries, self.clocks, handles)
        return tokens

    @property
    def committed_tokens(self) -> Int64Array:
        """Return resident tokens plus those on their way: the load that a plan adds to."""
        committed: Int64Array = self.load_tokens + self.due_tokens
        return committed

    @property
    def num_free_slots(self) -> Int64Array:
        """Return the slots of each rank that no request in flight holds or waits for.

        At least 0, and exact: the router knows what it has sent and what has ended.
        """
        free: Int64Array = np.maximum(self.num_slots - self.num_inflight_reqs, 0)
        return free

    @property
    def max_sends(self) -> Int64Array:
        """Return how many requests a plan may send to each rank; none to one without slots."""
        if self.is_immediate:
            limits: Int64Array = np.where(self.num_slots > 0, NO_LIMIT, 0)
            return limits
        return self.num_free_slots

    @property
    def free_kv_tokens(self) -> Int64Array:
        """Return the KV tokens a plan may fill on each rank; no limit under immediate binding."""
        if self.is_immediate:
            return np.full(self.num_ranks, UNLIMITED_TOKENS, np.int64)
        free: Int64Array = np.maximum(self.kv_capacity_tokens - self.committed_tokens, 0)
        return free

    @property
    def kv_usage(self) -> NDArray[np.float64]:
        """Return the fraction of each rank's KV tokens in use, in [0, 1]."""
        usage: NDArray[np.float64] = self.load_tokens / self.kv_capacity_tokens
        return usage


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolView:
    """The requests that wait, oldest first; arrays are for reading only.

    Attributes
    ----------
    ids : int64 array, shape (N,)
        The owner's names for the requests.
    prompt_tokens : int64 array, shape (N,)
        Prompt lengths s.
    arrival_s : float64 array, shape (N,)
        When each request arrived, seconds.
    traits : REQUEST_TRAITS array, shape (N,), or None
        What else is known, read through the properties; `request_traits` makes it. None: nothing.

    Examples
    --------
    >>> pool = PoolView.of_prompts([100, 30], request_traits(2, client_ids=[7, 7]))
    >>> pool.client_ids, pool.max_tokens
    (array([7, 7]), array([0, 0]))
    """

    ids: Int64Array
    prompt_tokens: Int64Array
    arrival_s: NDArray[np.float64]
    traits: RecordArray | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @staticmethod
    def of_prompts(prompt_tokens: Integers, traits: RecordArray | None = None) -> PoolView:
        """Return a pool of requests numbered from 0 that have all arrived at 0 s, for examples."""
        prompts = np.asarray(prompt_tokens, np.int64)
        ids, arrival_s = np.arange(len(prompts)), np.zeros(len(prompts))
        return PoolView(ids=ids, prompt_tokens=prompts, arrival_s=arrival_s, traits=traits)

    def oldest(self, num_requests: int) -> PoolView:
        """Return the view of the oldest requests only, at most `num_requests`."""
        if len(self) <= num_requests:
            return self
        first = slice(0, num_requests)
        return PoolView(
            ids=self.ids[first],
            prompt_tokens=self.prompt_tokens[first],
            arrival_s=self.arrival_s[first],
            traits=None if self.traits is None else self.traits[first],
        )

    def without(self, requests: Int64Array) -> PoolView:
        """Return the view of all requests but those at these positions, shape (M,)."""
        if len(requests) == 0:
            return self
        return PoolView(
            ids=np.delete(self.ids, requests),
            prompt_tokens=np.delete(self.prompt_tokens, requests),
            arrival_s=np.delete(self.arrival_s, requests),
            traits=None if self.traits is None else np.delete(self.traits, requests),
        )

    @property
    def client_ids(self) -> Int64Array:
        """Return who sent each request, shape (N,); -1 where unknown."""
        return self._trait("client_id")

    @property
    def max_tokens(self) -> Int64Array:
        """Return each request's own limit of output tokens, shape (N,); 0 where unknown."""
        return self._trait("max_tokens")

    @property
    def prompt_hashes(self) -> Int64Array:
        """Return a hash of each whole prompt, shape (N,), equal for equal ones; 0 where unknown."""
        return self._trait("prompt_hash")

    @property
    def preferred_ranks(self) -> Int64Array:
        """Return the rank on which each request would be cheapest, shape (N,); -1 if none is."""
        return self._trait("preferred_rank")

    @property
    def saved_tokens(self) -> Int64Array:
        """Return the prompt tokens that the preferred rank would save, as in its prefix cache."""
        return self._trait("saved_tokens")

    @property
    def cached_tokens(self) -> Int64Array:
        """Return prompt tokens that no rank has to compute, which still take room, shape (N,)."""
        return self._trait("cached_tokens")

    @property
    def priorities(self) -> Int64Array:
        """Return each request's priority, shape (N,): as in vLLM, lower goes earlier, usually 0."""
        return self._trait("priority")

    @property
    def sessions(self) -> Int64Array:
        """Return a number for the session of each request, shape (N,); 0 where unknown."""
        return self._trait("session")

    def _trait(self, name: str) -> Int64Array:
        traits = request_traits(len(self)) if self.traits is None else self.traits
        column: Int64Array = traits[name]
        return column
