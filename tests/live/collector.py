"""A collector of OpenTelemetry's spans on a loopback port, which reads them with others' code."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

# From xds-protos, in which scopes are still called instrumentation libraries; numbers are the same.
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass
class Collector:
    """Takes spans as OpenTelemetry's collector does, and keeps them."""

    url: str = ""
    spans: list[Any] = field(default_factory=list)
    resource: dict[str, str] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)

    async def take(self, request: web.Request) -> web.Response:
        """Read what the protocol calls an export."""
        assert "application/x-protobuf" == request.content_type
        self.headers.update({name.lower(): value for name, value in request.headers.items()})
        told = ExportTraceServiceRequest.FromString(await request.read())
        for of_resource in told.resource_spans:
            self.resource.update(attributes(of_resource.resource))
            for of_scope in of_resource.instrumentation_library_spans:
                self.spans += of_scope.spans
        return web.Response(body=b"", content_type="application/x-protobuf")

    def named(self, name: str) -> list[Any]:
        """Return the spans of a name, the first to begin first."""
        found = [span for span in self.spans if span.name == name]
        return sorted(found, key=lambda span: span.start_time_unix_nano)


def attributes(owner: Any) -> dict[str, Any]:
    """Return attributes as plain values."""
    return {
        each.key: getattr(each.value, str(each.value.WhichOneof("value")))
        for each in owner.attributes
    }


@contextlib.asynccontextmanager
async def collecting() -> AsyncIterator[Collector]:
    """Run a collector on a free port."""
    collector, app = Collector(), web.Application()
    app.router.add_post("/v1/traces", collector.take)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        collector.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1/traces"
        yield collector
    finally:
        await runner.cleanup()
