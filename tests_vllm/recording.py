"""What vLLM's classes look like, as far as the plug-in relies on them."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

from balanceroute.vllm_plugin import contract

RECORD = Path(__file__).parents[1] / "tests" / "vllm_plugin" / "recorded.json"
STRUCTS = ("EngineCoreRequest", "EngineCoreOutput", "EngineCoreOutputs")


def record() -> dict[str, Any]:
    """Return the release, the parameters of the methods and names that they use, and fields."""
    core_client = importlib.import_module("vllm.v1.engine.core_client")
    engine = importlib.import_module("vllm.v1.engine")
    client = getattr(core_client, contract.CLIENT)
    methods = {name: getattr(client, name) for name in contract.METHODS}
    return {
        "release": contract.release_of(importlib.import_module("vllm").__version__),
        "methods": {
            name: {
                "parameters": list(inspect.signature(method).parameters),
                "is_coroutine": inspect.iscoroutinefunction(method),
                "uses": sorted(
                    word
                    for word in contract.NAMES_USED.get(name, ())
                    if word in method.__code__.co_names
                ),
            }
            for name, method in methods.items()
        },
        "fields": {name: list(getattr(engine, name).__struct_fields__) for name in STRUCTS},
    }
