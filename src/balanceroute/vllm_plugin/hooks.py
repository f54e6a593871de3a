"""Where the plug-in takes hold in vLLM: six methods of one class."""

from __future__ import annotations

import functools
import importlib
import logging
import multiprocessing
import os
from collections.abc import Callable, Mapping
from typing import Any

from balanceroute.errors import ConfigError
from balanceroute.vllm_plugin import contract
from balanceroute.vllm_plugin.settings import PluginSettings, mode_of, read_settings

ENGAGEMENT = "_balanceroute"  # the attribute of a client at which the plug-in works
ANY_VERSION, RUST_FRONTEND = "BALANCEROUTE_VLLM_ANY_VERSION", "VLLM_USE_RUST_FRONTEND"
# Processes of vLLM that choose no ranks, by how their names begin.
ENGINE_PROCESSES = ("EngineCore", "VllmWorker", "Worker", "VLLM_DP_Coordinator", "RayWorker")
# What is done to all requests at once must find those too that are held.
RELEASING = ("pause_scheduler_async", "sleep_async", "prepare_elastic_ep")

log = logging.getLogger("vllm.plugins.balanceroute")


def register() -> None:
    """Take hold in vLLM, if the operator wants it; vLLM calls this in each of its processes."""
    if multiprocessing.current_process().name.startswith(ENGINE_PROCESSES):
        return
    try:
        mode = mode_of(os.environ)
        if mode == "off":
            return
        settings = read_settings(os.environ)
        reason = _objection(os.environ)
        if not reason:
            core_client = importlib.import_module("vllm.v1.engine.core_client")
            engine = importlib.import_module("vllm.v1.engine")
            missing = contract.faults(core_client, engine)
            reason = "this vLLM is built otherwise: " + "; ".join(missing) if missing else ""
    except ConfigError as error:
        reason = str(error)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
    if reason:
        log.error("balanceroute is not used, vLLM chooses the ranks: %s", reason)
        return
    install(core_client.DPLBAsyncMPClient, settings, routes=mode == "route")


def _objection(environ: Mapping[str, str]) -> str:
    """Say why the plug-in cannot work here, if it cannot."""
    if environ.get(RUST_FRONTEND, "0").strip() not in ("", "0"):
        return (
            f"with {RUST_FRONTEND}=1 ranks are chosen in Rust; unset it, or use balanceroute serve"
        )
    version = str(importlib.import_module("vllm").__version__)
    tested = contract.TESTED_RELEASES
    if contract.release_of(version) not in tested and not environ.get(ANY_VERSION):
        return (
            f"vLLM {version} is not among the tested releases ({', '.join(tested)}); "
            f"set {ANY_VERSION}=1 to try it all the same"
        )
    return ""


def install(client_class: type[Any], settings: PluginSettings, *, routes: bool) -> None:
    """Put the plug-in's methods in the place of vLLM's, which they call; once only."""
    if ENGAGEMENT in client_class.__dict__:
        return
    setattr(client_class, ENGAGEMENT, None)
    _wrap_init(client_class, settings, routes=routes)
    _wrap_choice(client_class)
    _wrap_sending(client_class)
    _wrap_outputs(client_class)
    for name in RELEASING:
        if hasattr(client_class, name):
            _wrap_releasing(client_class, name)


def _wrap_init(client_class: type[Any], settings: PluginSettings, *, routes: bool) -> None:
    original, send = client_class.__init__, client_class.add_request_async

    @functools.wraps(original)
    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        try:
            from balanceroute.vllm_plugin.engage import engage

            engagement = engage(self, settings, send=send, routes=routes)
        except Exception as error:
            detail = str(error) if isinstance(error, ConfigError) else repr(error)
            log.error("balanceroute is not used, vLLM chooses the ranks: %s", detail)
            return
        setattr(self, ENGAGEMENT, engagement)

    client_class.__init__ = init


def _working(client: Any) -> Any:
    engagement = getattr(client, ENGAGEMENT)
    return engagement if engagement is not None and engagement.is_on else None


def _wrap_choice(client_class: type[Any]) -> None:
    original = client_class.get_core_engine_for_request

    @functools.wraps(original)
    def get_core_engine_for_request(self: Any, request: Any) -> Any:
        engagement = _working(self)
        if engagement is None:
            return original(self, request)
        is_ours = engagement.choose(self, request)
        engine = original(self, request)
        engagement.note_choice(request, engine, is_ours=is_ours)
        return engine

    client_class.get_core_engine_for_request = get_core_engine_for_request


def _wrap_sending(client_class: type[Any]) -> None:
    add, abort = client_class.add_request_async, client_class.abort_requests_async

    @functools.wraps(add)
    async def add_request_async(self: Any, request: Any) -> None:
        engagement = _working(self)
        if engagement is None or not engagement.holds(self, request):
            await add(self, request)

    @functools.wraps(abort)
    async def abort_requests_async(self: Any, request_ids: list[str]) -> None:
        engagement = _working(self)
        if engagement is not None:
            engagement.drop_held(request_ids)
        await abort(self, request_ids)

    client_class.add_request_async = add_request_async
    client_class.abort_requests_async = abort_requests_async


def _wrap_outputs(client_class: type[Any]) -> None:
    original = client_class.process_engine_outputs

    @functools.wraps(original)
    async def process_engine_outputs(self: Any, outputs: Any) -> None:
        await original(self, outputs)
        engagement = _working(self)
        if engagement is not None:
            engagement.take_step(outputs)

    client_class.process_engine_outputs = staticmethod(process_engine_outputs)


def _wrap_releasing(client_class: type[Any], name: str) -> None:
    original: Callable[..., Any] = getattr(client_class, name)

    @functools.wraps(original)
    async def releasing(self: Any, *args: Any, **kwargs: Any) -> Any:
        engagement = _working(self)
        if engagement is not None:
            engagement.release_held()
            await engagement.sent()
        return await original(self, *args, **kwargs)

    setattr(client_class, name, releasing)
