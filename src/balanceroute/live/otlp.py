"""Spans as OpenTelemetry's collectors take them: OTLP, Protocol Buffers over HTTP.

The SDK's own exporter is not used: its generated messages share their names with those of other
packages (xds-protos), and whichever is installed last breaks the other.
"""

from __future__ import annotations

import logging
import os
import struct
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.util.re import parse_env_headers

from balanceroute import __version__
from balanceroute.live.rpc.protobuf import FIXED64, VARINT, delimited, varint

TIMEOUT_S, PATH = 10.0, "/v1/traces"
HEADERS = {
    "Content-Type": "application/x-protobuf",
    "User-Agent": f"balanceroute/{__version__}",
}
TOLD_HEADERS = ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "OTEL_EXPORTER_OTLP_HEADERS")

log = logging.getLogger(__name__)


class OtlpExporter(SpanExporter):
    """Sends spans to a collector; those that it does not take are dropped, and the log says so.

    Parameters
    ----------
    url : str
        Where the collector takes spans; one without a path means the usual one.
    """

    def __init__(self, url: str) -> None:
        told = next(filter(None, map(os.environ.get, TOLD_HEADERS)), "")
        self._headers = HEADERS | dict(parse_env_headers(told, liberal=True))
        self._url = url if urlsplit(url).path.strip("/") else url.rstrip("/") + PATH
        self._is_away = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans; called from the SDK's thread."""
        request = Request(self._url, export_request(spans), self._headers)  # noqa: S310  # http(s)
        try:
            with urlopen(request, timeout=TIMEOUT_S):  # noqa: S310  # as above
                pass
        except (OSError, HTTPException) as error:
            if not self._is_away:
                log.warning("spans are dropped until %s takes them: %s", self._url, error)
            self._is_away = True
            return SpanExportResult.FAILURE
        self._is_away = False
        return SpanExportResult.SUCCESS


def export_request(spans: Sequence[ReadableSpan]) -> bytes:
    """Return spans of one provider and one tracer as an ``ExportTraceServiceRequest``."""
    resource, scope = spans[0].resource, spans[0].instrumentation_scope
    told = delimited(1, _attributes(1, resource.attributes))
    assert scope is not None  # the SDK gives one to each span
    named = delimited(1, scope.name.encode()) + delimited(2, (scope.version or "").encode())
    of_scope = delimited(1, named) + b"".join(delimited(2, _span(span)) for span in spans)
    return delimited(1, told + delimited(2, of_scope))


def _span(span: ReadableSpan) -> bytes:
    own, parent = span.get_span_context(), span.parent
    assert own is not None
    assert span.start_time is not None
    assert span.end_time is not None
    parts = [
        delimited(1, own.trace_id.to_bytes(16, "big")),
        delimited(2, own.span_id.to_bytes(8, "big")),
        delimited(3, own.trace_state.to_header().encode()),
        b"" if parent is None else delimited(4, parent.span_id.to_bytes(8, "big")),
        delimited(5, span.name.encode()),
        _integer(6, span.kind.value + 1),  # 0 is none that is known
        varint(7 << 3 | FIXED64) + struct.pack("<Q", span.start_time),
        varint(8 << 3 | FIXED64) + struct.pack("<Q", span.end_time),
        _attributes(9, span.attributes or {}),
        delimited(15, _integer(3, span.status.status_code.value)),
    ]
    return b"".join(parts)


def _attributes(number: int, attributes: Mapping[str, object]) -> bytes:
    pairs = (
        delimited(1, name.encode()) + delimited(2, _value(value))
        for name, value in attributes.items()
    )
    return b"".join(delimited(number, pair) for pair in pairs)


def _value(value: object) -> bytes:
    r"""Return an ``AnyValue``.

    Examples
    --------
    >>> _value("a"), _value(True), _value(3), _value(("b",))
    (b'\n\x01a', b'\x10\x01', b'\x18\x03', b'*\x05\n\x03\n\x01b')
    """
    match value:
        case bool():
            return _integer(2, value)
        case int():
            return _integer(3, value)
        case float():
            return varint(4 << 3 | FIXED64) + struct.pack("<d", value)
        case Sequence() if not isinstance(value, str):
            return delimited(5, b"".join(delimited(1, _value(item)) for item in value))
        case _:
            return delimited(1, str(value).encode())


def _integer(number: int, value: int) -> bytes:
    return varint(number << 3 | VARINT) + varint(value)
