"""A stand-in client with the plug-in in it, and what happens to it."""

from __future__ import annotations

import asyncio
from typing import Any

from balanceroute.vllm_plugin import hooks
from balanceroute.vllm_plugin.settings import PluginSettings
from tests.vllm_plugin.stand_in import (
    EngineCoreOutput,
    EngineCoreOutputs,
    EngineCoreRequest,
    make_client_class,
    make_config,
)

IMMEDIATE = PluginSettings(policy="least_tokens", binding="immediate")
POOLED = PluginSettings(policy="least_tokens", binding="pooled", settle_secs=0.0)


def make_client(settings: PluginSettings, *, routes: bool = True, **config: Any) -> Any:
    client_class = make_client_class()
    hooks.install(client_class, settings, routes=routes)
    return client_class(make_config(**config))


def request(name: str, prompt_tokens: int = 10, **fields: Any) -> EngineCoreRequest:
    return EngineCoreRequest(name, [1] * prompt_tokens, **fields)


def report(rank: int, *names: str, ended: tuple[str, ...] = ()) -> EngineCoreOutputs:
    outputs = [EngineCoreOutput(name, [1], "length" if name in ended else None) for name in names]
    return EngineCoreOutputs(rank, outputs, None, set(ended) or None)


def run(story: Any) -> Any:
    return asyncio.run(asyncio.wait_for(story, 20))
