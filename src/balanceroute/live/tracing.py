"""Traces of requests, sent to an OpenTelemetry collector; nothing of this is loaded without one."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aiohttp import web
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from balanceroute import __version__
from balanceroute.live.answers import Refusal
from balanceroute.live.call import Call
from balanceroute.live.otlp import OtlpExporter
from balanceroute.live.ticket import Ticket

HTTP_STATUS, ERROR_TYPE = "http.response.status_code", "error.type"
WAIT, PREFILL, SEND = "wait in pool", "prefill", "send to rank"
FIRST_FAULT = 500  # statuses below are the client's doing, and no error of a server's span

Serve = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
Prefilling = Callable[[Call], Awaitable[None]]
Placing = Callable[[Ticket, str | None], Awaitable[None]]
Sending = Callable[..., Awaitable[web.StreamResponse | None]]


class Tracing:
    """Puts spans around what is done for a request.

    Its methods take a function and return one that does the same within a span: `serving` the
    whole of it, which goes on with the trace that the client names; within that each wait for a
    rank, each computation of its prompt elsewhere, and each send to a rank, whose span the engine
    is told in the header ``traceparent``.

    Parameters
    ----------
    url : str
        Where the collector takes spans, as OTLP over HTTP.
    policy_now : callable
        Returns who chooses.

    Notes
    -----
    The SDK's own environment variables hold for what is not said here: ``OTEL_SERVICE_NAME``,
    ``OTEL_RESOURCE_ATTRIBUTES``, ``OTEL_TRACES_SAMPLER``, ``OTEL_EXPORTER_OTLP_HEADERS``,
    ``OTEL_BSP_*`` and others. Spans are sent by a thread of their own, and dropped rather than
    waited for.
    """

    def __init__(self, url: str, *, policy_now: Callable[[], str]) -> None:
        self._policy_now = policy_now
        self._provider = TracerProvider(resource=_resource(), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OtlpExporter(url)))
        self._tracer = self._provider.get_tracer("balanceroute", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def stop(self) -> None:
        """Send what is left; takes as long as the collector does."""
        self._provider.shutdown()

    def serving(self, serve: Serve) -> Serve:
        """Put requests into spans."""

        async def traced(request: web.BaseRequest) -> web.StreamResponse:
            name = f"{request.method} {request.path}"
            about = {"http.request.method": request.method, "url.path": request.path}
            parent = self._propagator.extract(request.headers)
            with self._span(name, SpanKind.SERVER, about, parent) as span:
                answer = await serve(request)
                span.set_attribute(HTTP_STATUS, answer.status)
                return answer

        return traced

    def placing(self, place: Placing) -> Placing:
        """Put waits for a rank into spans."""

        async def traced(ticket: Ticket, tenant: str | None) -> None:
            about = {
                "balanceroute.policy": self._policy_now(),
                "gen_ai.usage.input_tokens": ticket.prompt_tokens,
            }
            with self._span(WAIT, SpanKind.INTERNAL, about) as span:
                await place(ticket, tenant)
                span.set_attribute("balanceroute.rank", ticket.rank)

        return traced

    def prefilling(self, prefill: Prefilling) -> Prefilling:
        """Put computations of prompts elsewhere into spans."""

        async def traced(call: Call) -> None:
            if call.handed_over is not None:  # it has been computed for a send before
                return
            with self._span(PREFILL, SpanKind.CLIENT, {}):
                self._propagator.inject(call.headers)
                await prefill(call)

        return traced

    def sending(self, send: Sending, worker_of: Callable[[int], str]) -> Sending:
        """Put sends to ranks, up to the ends of their answers, into spans."""

        async def traced(call: Call, *, is_last: bool) -> web.StreamResponse | None:
            rank = call.ticket.rank
            about = {"balanceroute.rank": rank, "balanceroute.worker": worker_of(rank)}
            with self._span(SEND, SpanKind.CLIENT, about) as span:
                self._propagator.inject(call.headers)
                answer = await send(call, is_last=is_last)
                if answer is None:
                    _blame(span, "retried")
                    return None
                span.set_attribute(HTTP_STATUS, answer.status)
                span.set_attribute("gen_ai.usage.output_tokens", call.ticket.output_tokens)
                if call.meter is not None and not call.meter.is_done:
                    _blame(span, "broken_off")
                return answer

        return traced

    @contextmanager
    def _span(
        self, name: str, kind: SpanKind, about: dict[str, Any], parent: Any = None
    ) -> Iterator[Span]:
        """Open a span; what is raised within it is told, and goes on."""
        with self._tracer.start_as_current_span(
            name,
            parent,
            kind,
            about,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                yield span
            except Refusal as refusal:
                span.set_attribute(HTTP_STATUS, refusal.status)
                if refusal.status >= FIRST_FAULT:
                    _blame(span, refusal.reason)
                else:
                    span.set_attribute(ERROR_TYPE, refusal.reason)
                raise
            except BaseException as error:  # a client that has gone is a cancellation
                _blame(span, type(error).__qualname__)
                raise


def _blame(span: Span, reason: str) -> None:
    span.set_attribute(ERROR_TYPE, reason)
    span.set_status(Status(StatusCode.ERROR))


def _resource() -> Resource:
    """Return who sends the spans; the environment may give another name."""
    told = Resource.create({SERVICE_VERSION: __version__})
    if str(told.attributes[SERVICE_NAME]).startswith("unknown_service"):
        return told.merge(Resource({SERVICE_NAME: "balanceroute"}))
    return told
