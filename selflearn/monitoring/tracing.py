"""OpenTelemetry traces, sent over OTLP/HTTP when the standard ``OTEL_*`` variables name a collector.

A trace holds names, numbers and times: never what anybody wrote, nor a key. Needs the extra ``selflearn[tracing]``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from importlib.util import find_spec
from itertools import pairwise
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span, Tracer

Value = str | int | float | bool
ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
PROTOCOL: Final = "http/protobuf"
NANOSECONDS: Final = 1_000_000_000
SERVER_ERROR: Final = 500

logger = logging.getLogger(__name__)


class Tracing:
    """Makes spans of requests and updates. Thread-safe."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer

    def begin_request(self, name: str, headers: Mapping[str, str]) -> Span:
        """A request arrived; it belongs to the trace that its ``traceparent`` names, if it has one."""
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        context = TraceContextTextMapPropagator().extract(headers)
        return self._tracer.start_span(name, context=context, kind=SpanKind.SERVER)

    def end_request(self, span: Span, name: str, status: int, values: Mapping[str, Value]) -> None:
        """It was answered with an HTTP status, 0 for not at all."""
        from opentelemetry.trace import StatusCode

        span.update_name(name)
        span.set_attributes({**values, **({"http.response.status_code": status} if status else {})})
        if not status or status >= SERVER_ERROR:
            span.set_status(StatusCode.ERROR)
        span.end()

    def update(self, steps: Sequence[tuple[str, float]], ended_at: float, values: Mapping[str, Value]) -> None:
        """An update has ended: its steps, each with the time (unix seconds) at which it began."""
        from opentelemetry.trace import set_span_in_context

        whole = self._tracer.start_span("update", start_time=_nanoseconds(steps[0][1]), attributes=values)
        inside = set_span_in_context(whole)
        for (name, began), (_, over) in pairwise([*steps, ("", ended_at)]):
            step = self._tracer.start_span(f"update: {name}", context=inside, start_time=_nanoseconds(began))
            step.end(_nanoseconds(max(began, over)))
        whole.end(_nanoseconds(ended_at))


@contextmanager
def tracing(environment: Mapping[str, str]) -> Iterator[Tracing | None]:
    """What sends traces to the collector that the environment names; None if it names none. In the end all are sent."""
    if not _wanted(environment):
        yield None
        return
    provider = _provider(environment)
    try:
        yield Tracing(provider.get_tracer("selflearn"))
    finally:
        provider.shutdown()


def _wanted(environment: Mapping[str, str]) -> bool:
    off = environment.get("OTEL_SDK_DISABLED", "").lower() == "true"
    if off or environment.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp":
        return False
    if not any(environment.get(name) for name in ENDPOINTS):
        return False
    protocol = next((environment[name] for name in PROTOCOLS if environment.get(name)), PROTOCOL)
    if protocol != PROTOCOL:
        logger.warning("no traces: the OTLP protocol is %r, and selflearn speaks %r only", protocol, PROTOCOL)
        return False
    if not _installed():
        logger.warning(
            "no traces: OTEL_EXPORTER_OTLP_ENDPOINT is set, but the extra selflearn[tracing] is not installed"
        )
        return False
    return True


def _installed() -> bool:
    return find_spec("opentelemetry") is not None and find_spec("opentelemetry.exporter.otlp.proto.http") is not None


def _provider(environment: Mapping[str, str]) -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = {"service.version": version("selflearn")}
    if not environment.get("OTEL_SERVICE_NAME"):
        named["service.name"] = "selflearn"
    provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def _nanoseconds(seconds: float) -> int:
    return int(seconds * NANOSECONDS)
