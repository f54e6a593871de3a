"""What the plug-in relies on in vLLM, and how it is checked before anything is touched."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import ModuleType
from typing import Any

CLIENT = "DPLBAsyncMPClient"
#: vLLM releases against which the tests with a real engine have passed.
TESTED_RELEASES = ("0.31", "0.32")
#: Parameters of the client's methods, by name; what follows them in later releases is not used.
METHODS: Mapping[str, tuple[str, ...]] = {
    "__init__": ("self", "vllm_config", "executor_class", "log_stats"),
    "get_core_engine_for_request": ("self", "request"),
    "add_request_async": ("self", "request"),
    "abort_requests_async": ("self", "request_ids"),
    "process_engine_outputs": ("self", "outputs"),
    "ensure_alive": ("self",),
}
COROUTINES = ("add_request_async", "abort_requests_async", "process_engine_outputs")
REQUEST_FIELDS = (
    "request_id",
    "prompt_token_ids",
    "prompt_embeds",
    "sampling_params",
    "pooling_params",
    "data_parallel_rank",
    "priority",
    "resumable",
)
OUTPUT_FIELDS = ("request_id", "new_token_ids", "finish_reason")
STEP_FIELDS = ("engine_index", "outputs", "scheduler_stats", "finished_requests")
#: Names that the client's methods must use still, or the plug-in's accounts would be wrong.
NAMES_USED: Mapping[str, tuple[str, ...]] = {
    "get_core_engine_for_request": ("data_parallel_rank", "reqs_in_flight", "core_engines"),
    "process_engine_outputs": ("finished_requests", "reqs_in_flight"),
}


def release_of(version: str) -> str:
    """Return the release that a version belongs to.

    Examples
    --------
    >>> release_of("0.32.0+cpu")
    '0.32'
    """
    return ".".join(version.split("+")[0].split(".")[:2])


def faults(core_client: ModuleType, engine: ModuleType) -> list[str]:
    """Return what the plug-in needs and vLLM does not have; empty if all is there.

    Parameters
    ----------
    core_client, engine : module
        ``vllm.v1.engine.core_client`` and ``vllm.v1.engine``, or what stands for them.
    """
    client = getattr(core_client, CLIENT, None)
    if client is None:
        return [f"there is no {CLIENT}"]
    found = [fault for name in METHODS if (fault := _method_fault(client, name))]
    for name, fields in (
        ("EngineCoreRequest", REQUEST_FIELDS),
        ("EngineCoreOutput", OUTPUT_FIELDS),
        ("EngineCoreOutputs", STEP_FIELDS),
    ):
        has = getattr(getattr(engine, name, None), "__struct_fields__", ())
        found += [f"{name} has no field {field}" for field in fields if field not in has]
    return found


def _method_fault(client: type[Any], name: str) -> str:
    method = getattr(client, name, None)
    if method is None:
        return f"{CLIENT} has no {name}"
    parameters = tuple(inspect.signature(method).parameters)[: len(METHODS[name])]
    if parameters != METHODS[name]:
        return f"{CLIENT}.{name} takes {', '.join(parameters)}, not {', '.join(METHODS[name])}"
    if (name in COROUTINES) != inspect.iscoroutinefunction(method):
        return f"{CLIENT}.{name} is {'not ' if name in COROUTINES else ''}a coroutine"
    used = method.__code__.co_names
    missing = [word for word in NAMES_USED.get(name, ()) if word not in used]
    return f"{CLIENT}.{name} does not use {missing[0]}" if missing else ""
