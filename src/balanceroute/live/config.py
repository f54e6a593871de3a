"""What `balanceroute serve` is told: flags, or a file with the same names."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from balanceroute.live.addresses import RankAddress, rank_addresses

Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(gt=0.0)]
Port = Annotated[int, Meta(ge=0, le=65535)]
RankField = Literal["header", "body", "none"]
BindingChoice = Literal["pooled", "immediate"]
CountBy = Literal["estimate", "tokenizer", "engine"]


class Tenant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who shares a router with others.

    Attributes
    ----------
    weight : float
        Of its share, in relation to others.
    keys : tuple of str
        That its clients show; empty: it is known by the header only.
    """

    weight: Annotated[float, Meta(gt=0.0, le=1e6)] = 1.0
    keys: tuple[str, ...] = ()


class ServeConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One router in front of one group, or, with the policy `br_fleet`, of several groups' routers.

    Attributes
    ----------
    worker_urls : tuple of str
        One per rank, as ``http://host:port``, or ``http://host:port@rank`` where several ranks
        share a port.
    kubernetes_service, kubernetes_pool, kubernetes_namespace : str or None
        Service or InferencePool whose endpoints are the ranks, instead of `worker_urls`, and where;
        a pool without a service goes by the service of its name.
    intra_node_data_parallel_size : int
        Ranks behind each URL that names none; 1 or more.
    rank_field : {"header", "body", "none"}
        How a rank behind a shared URL is named: ``X-data-parallel-rank`` (vLLM), the body's
        ``data_parallel_rank`` (SGLang), or not at all.
    prefill_urls : tuple of str
        Servers that compute the prompts first, if there are any; the ranks above then decode only.
    prefill_max_kv_usage : float
        How full such a server's KV cache may be to get another prompt, in (0, 1].
    policy, seed, binding
        Who chooses, with what chance, and when; None: as the policy does by nature.
    slots, kv_tokens : int or None
        Of each rank: requests that run together, and KV tokens; None: as the engine tells.
    barrier : bool
        Whether the ranks step together, and so fail together.
    tokenizer : str or None
        The model's ``tokenizer.json``, or the folder that it is in.
    count_by : {"estimate", "tokenizer", "engine"} or None
        How the length of a text is found; None: by the tokenizer if there is one, else estimated.
    tokenize_timeout_secs : float
        How long a request waits for an engine to count it.
    step_time : str or None
        ``C,T`` or ``C,T,KAPPA0`` of a step; None: unknown.
    prefill_budget, prefill_time, prefill_shared, mixed_step_time
        Where ranks prefill too: tokens per step, and what they cost, as for ``simulate``.
    host, port : str, int
        Where to listen; port 0 takes a free one.
    request_timeout_secs : float
        For a request from its arrival to the end of its answer.
    queue_size, queue_timeout_secs : int, float
        How many may wait for a rank, beyond those that free slots will take with the next plan, and
        for how long.
    retry_max_attempts, retry_initial_backoff_secs, retry_max_backoff_secs
        Sends of a request of whose answer nothing has been passed on yet, the first included.
    health_check_interval_secs, health_check_timeout_secs, health_check_endpoint
        How ranks are asked whether they are well.
    health_failure_threshold, health_success_threshold : int
        Answers in a row that change the router's mind.
    metrics_interval_secs : float
        Seconds between two looks at the engines' metrics.
    settle_secs : float
        How long a plan waits for the rest of a step's tokens.
    max_body_bytes, max_header_bytes, max_headers : int
        Largest body of a request, longest header or request line, and how many headers.
    header_timeout_secs, body_timeout_secs, stall_timeout_secs : float
        How long a client may take for its headers, for its body, and to read on once the buffers
        for its answer are full.
    shutdown_timeout_secs : float
        How long a router that is told to stop waits for the ends of answers.
    api_keys : tuple of str
        Keys of which clients must show one; empty: none is asked for.
    tenants : dict of str to Tenant
        By name; clients that belong to none share the name ``""``.
    tenant_header : str or None
        Header in which a gateway names the tenant of a request whose key names none.
    admin_token : str
        What changes to the running router must show; empty: there is no way to make any.
    admin_port : int or None
        Where they are made, on the same host; None: nowhere.
    allows_rank_header : bool
        Whether clients may choose a rank themselves.
    shadow : str or None
        Policy of which is said what it would have done; None: nothing is said.
    decision_log : str or None
        File for what the policy sees and says; None: nothing is written.
    decision_log_max_bytes, decision_log_files : int
        Size of a file, compressed, and how many full ones are kept; 0: all.
    decisions : bool
        Whether gateways that carry requests themselves may ask for ranks.
    decision_lease_secs : float
        How long a rank is held for such a request of which nothing is heard.
    grpc_port : int or None
        Where gRPC is served, on the same host; None: nowhere.
    grpc_socket : str or None
        Path of a Unix socket on which it is served as well; None: there is none.
    session_header : str or None
        Header that names the session of a request; for `br_fleet`.
    prefix_blocks : int
        Blocks of 1,024 bytes of prompts that each group is taken to keep cached; 0: prompts are not
        looked at. For `br_fleet`.
    otlp_traces_endpoint : str or None
        Collector that is sent traces, as OTLP over HTTP; None: there are none.
    processes : int
        That carry requests; with more than one, another decides for all of them.
    """

    worker_urls: tuple[str, ...] = ()
    kubernetes_service: str | None = None
    kubernetes_pool: str | None = None
    kubernetes_namespace: str | None = None
    intra_node_data_parallel_size: Positive = 1
    rank_field: RankField = "header"
    prefill_urls: tuple[str, ...] = ()
    prefill_max_kv_usage: Annotated[float, Meta(gt=0.0, le=1.0)] = 0.9
    policy: str = "br_auto"
    seed: int = 0
    binding: BindingChoice | None = None
    slots: Positive | None = None
    kv_tokens: Positive | None = None
    barrier: bool = True
    tokenizer: str | None = None
    count_by: CountBy | None = None
    tokenize_timeout_secs: Seconds = 0.5
    step_time: str | None = None
    prefill_budget: Positive | None = None
    prefill_time: Annotated[float, Meta(ge=0.0)] = 0.0
    prefill_shared: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.0
    mixed_step_time: Annotated[float, Meta(ge=0.0)] = 0.0
    host: str = "127.0.0.1"
    port: Port = 30000
    request_timeout_secs: Seconds = 1800.0
    queue_size: Annotated[int, Meta(ge=0)] = 4096
    queue_timeout_secs: Seconds = 600.0
    retry_max_attempts: Positive = 3
    retry_initial_backoff_secs: Annotated[float, Meta(ge=0.0)] = 0.05
    retry_max_backoff_secs: Annotated[float, Meta(ge=0.0)] = 2.0
    health_check_interval_secs: Seconds = 2.0
    health_check_timeout_secs: Seconds = 2.0
    health_check_endpoint: str = "/health"
    health_failure_threshold: Positive = 2
    health_success_threshold: Positive = 1
    metrics_interval_secs: Seconds = 1.0
    settle_secs: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.002
    max_body_bytes: Positive = 64 << 20
    max_header_bytes: Annotated[int, Meta(ge=256, le=1 << 20)] = 8190
    max_headers: Annotated[int, Meta(ge=8, le=10_000)] = 128
    header_timeout_secs: Seconds = 30.0
    body_timeout_secs: Seconds = 120.0
    stall_timeout_secs: Seconds = 60.0
    shutdown_timeout_secs: Seconds = 30.0
    api_keys: tuple[str, ...] = ()
    tenants: dict[str, Tenant] = {}
    tenant_header: str | None = None
    admin_token: str = ""
    admin_port: Port | None = None
    allows_rank_header: bool = False
    shadow: str | None = None
    decision_log: str | None = None
    decision_log_max_bytes: Positive = 64 << 20
    decision_log_files: Annotated[int, Meta(ge=0)] = 0
    decisions: bool = False
    decision_lease_secs: Seconds = 60.0
    grpc_port: Port | None = None
    grpc_socket: str | None = None
    session_header: str | None = None
    prefix_blocks: Annotated[int, Meta(ge=0, le=1 << 24)] = 0
    otlp_traces_endpoint: str | None = None
    processes: Annotated[int, Meta(ge=1, le=256)] = 1

    @property
    def addresses(self) -> list[RankAddress]:
        """Return where the ranks are, in order."""
        return rank_addresses(self.worker_urls, ranks_per_url=self.intra_node_data_parallel_size)

    @property
    def is_discovered(self) -> bool:
        """Tell whether Kubernetes says where the ranks are."""
        return self.kubernetes_service is not None or self.kubernetes_pool is not None

    @property
    def tenant_of_key(self) -> dict[str, str]:
        """Return whose each key is, ``""`` for nobody's in particular; empty: none is asked for."""
        keys = dict.fromkeys(self.api_keys, "")
        return keys | {key: name for name, its in self.tenants.items() for key in its.keys}

    @property
    def asks_for_keys(self) -> bool:
        """Tell whether clients must show one."""
        if not self.tenants:  # as most often, and every request asks
            return bool(self.api_keys)
        return bool(self.api_keys) or any(its.keys for its in self.tenants.values())

    @property
    def has_tenants(self) -> bool:
        """Tell whether shares are looked after."""
        return bool(self.tenants) or self.tenant_header is not None
