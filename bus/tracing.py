"""Trace spans of handled messages; the trace context travels in message headers."""

import contextlib
from collections.abc import Iterator, Mapping

from opentelemetry import propagate, trace
from opentelemetry.trace import SpanKind

_tracer = trace.get_tracer("micro-kiki")


@contextlib.contextmanager
def trace_handling(stage: str, headers: Mapping[str, str] | None, *, turn_id: str, attempt: int) -> Iterator[None]:
    """A span around a message's handling, child of the one that ``headers`` name.

    There is no span when this process exports none and ``headers`` carry no trace.
    """
    if not _is_exporting() and "traceparent" not in (headers or {}):
        yield
        return
    context = propagate.extract(dict(headers or {}))
    with _tracer.start_as_current_span(stage, context=context, kind=SpanKind.CONSUMER) as span:
        span.set_attributes({"kiki.turn_id": turn_id, "kiki.attempt": attempt})
        yield


def headers() -> dict[str, str]:
    """The W3C trace context of the current span, as message headers."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return carrier


def _is_exporting() -> bool:
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
