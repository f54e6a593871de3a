"""A Kubernetes API server on a loopback port, as far as endpoints are concerned."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

NAMESPACE, SERVICE, POOL = "models", "vllm", "llama"
SLICES = f"/apis/discovery.k8s.io/v1/namespaces/{NAMESPACE}/endpointslices"
POOLS = f"/apis/inference.networking.k8s.io/v1/namespaces/{NAMESPACE}/inferencepools"

Json = dict[str, Any]


def endpoint(address: str, pod: str, **conditions: bool) -> Json:
    """Return an endpoint of a slice; without conditions it says nothing of itself."""
    its: Json = {"addresses": [address], "nodeName": "node-1"}
    its["targetRef"] = {"kind": "Pod", "namespace": NAMESPACE, "name": pod, "uid": f"uid-{pod}"}
    return its | ({"conditions": conditions} if conditions else {})


def ready(address: str, pod: str) -> Json:
    return endpoint(address, pod, ready=True, serving=True, terminating=False)


def endpoint_slice(name: str, *endpoints: Json, port: int = 8000, family: str = "IPv4") -> Json:
    """Return a slice of the service, as the API server writes it."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": SERVICE},
        },
        "addressType": family,
        "endpoints": list(endpoints) or None,
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}],
    }


def pool(*ports: int) -> Json:
    """Return an InferencePool with these target ports."""
    return {
        "apiVersion": "inference.networking.k8s.io/v1",
        "kind": "InferencePool",
        "metadata": {"name": POOL, "namespace": NAMESPACE},
        "spec": {
            "selector": {"matchLabels": {"app": "vllm"}},
            "targetPorts": [{"number": port} for port in ports],
            "endpointPickerRef": {"name": "balanceroute-epp", "port": {"number": 9002}},
        },
    }


def status(code: int, message: str) -> Json:
    return {"kind": "Status", "status": "Failure", "code": code, "message": message}


class FakeApi:
    """Lists and watches slices and pools; `page` objects at a time.

    What has happened since `oldest` can be watched from; before, it is 410.
    """

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, Json]] = {SLICES: {}, POOLS: {}}
        self.version, self.oldest, self.page = 100, 0, 500
        self.history: list[tuple[int, str, Json]] = []
        self.watchers: dict[web.StreamResponse, tuple[str, asyncio.Event]] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.refusals: list[int] = []
        self.url = ""

    @property
    def num_lists(self) -> int:
        return sum("watch" not in query for _, query in self.requests)

    @property
    def num_watches(self) -> int:
        return len(self.requests) - self.num_lists

    async def put(self, path: str, its: Json) -> None:
        """Make or change an object."""
        name = its["metadata"]["name"]
        kind = "MODIFIED" if name in self.objects[path] else "ADDED"
        self.objects[path][name] = its
        await self._tell(path, kind, its)

    async def delete(self, path: str, name: str) -> None:
        await self._tell(path, "DELETED", self.objects[path].pop(name))

    async def bookmark(self, path: str) -> None:
        """Tell watchers how far time has got, and nothing else."""
        await self._tell(path, "BOOKMARK", {"metadata": {}})

    async def _tell(self, path: str, kind: str, its: Json) -> None:
        self.version += 1
        its = its | {"metadata": its["metadata"] | {"resourceVersion": str(self.version)}}
        event = {"type": kind, "object": its}
        self.history.append((self.version, path, event))
        await self.say(path, event)

    async def say(self, path: str, event: Json) -> None:
        """Send a line to those that watch."""
        for watcher, (watched, _) in list(self.watchers.items()):
            if watched == path:
                try:
                    await watcher.write(msgspec.json.encode(event) + b"\n")
                except ConnectionResetError:  # it has hung up
                    self.watchers.pop(watcher, None)

    def end_watches(self) -> None:
        """End them as the server does after a while."""
        for _, over in self.watchers.values():
            over.set()

    def cut(self) -> None:
        """Break all connections of watchers."""
        for watcher, (_, over) in self.watchers.items():
            over.set()
            assert watcher._req is not None
            assert watcher._req.transport is not None
            watcher._req.transport.abort()
        self.watchers.clear()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.requests.append((request.path, dict(request.query)))
        if self.refusals:
            code = self.refusals.pop(0)
            return web.json_response(status(code, "no"), status=code)
        if request.query.get("watch") == "true":
            return await self._watch(request)
        return self._list(request)

    def _list(self, request: web.Request) -> web.StreamResponse:
        items = list(self.objects[request.path].values())
        first = int(request.query.get("continue") or 0)
        last = first + min(self.page, int(request.query["limit"]))
        meta = {"resourceVersion": str(self.version)}
        if last < len(items):
            meta["continue"] = str(last)
        return web.json_response({"kind": "List", "metadata": meta, "items": items[first:last]})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        since, over = int(request.query["resourceVersion"]), asyncio.Event()
        answer = web.StreamResponse(headers={"Content-Type": "application/json"})
        await answer.prepare(request)
        if since < self.oldest:
            error = {"type": "ERROR", "object": status(410, f"too old resource version: {since}")}
            await answer.write(msgspec.json.encode(error) + b"\n")
            return answer
        for version, path, event in self.history:
            if version > since and path == request.path:
                await answer.write(msgspec.json.encode(event) + b"\n")
        self.watchers[answer] = (request.path, over)
        try:
            await over.wait()
        finally:
            self.watchers.pop(answer, None)
        return answer


@contextlib.asynccontextmanager
async def serving(api: FakeApi) -> AsyncIterator[None]:
    """Serve the API until the context is left."""
    app = web.Application()
    app.router.add_get("/{path:.*}", api.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    api.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield
    finally:
        api.end_watches()
        await runner.cleanup()


def write_kubeconfig(path: Path, api: FakeApi) -> None:
    """Write what names the API server, and the namespace."""
    named = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "here",
        "clusters": [{"name": "here", "cluster": {"server": api.url}}],
        "users": [{"name": "me", "user": {"token": "secret"}}],
        "contexts": [
            {"name": "here", "context": {"cluster": "here", "user": "me", "namespace": NAMESPACE}}
        ],
    }
    path.write_bytes(msgspec.json.encode(named))
