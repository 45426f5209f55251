"""Logs for people or machines, and one OpenTelemetry trace a turn when an exporter is configured."""

import contextlib
import logging
import sys
from typing import Any, TextIO, cast

import structlog
from opentelemetry import trace

from runtime.settings import Settings


class _Stderr:
    """Writes to whatever ``sys.stderr`` is now: a test's capture may have replaced and closed the first one.

    A line that cannot be written, because the log's disk is full, is dropped: it must not end what wanted to log it,
    and there is nowhere else to tell of it.
    """

    def write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.write(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            sys.stderr.flush()


def configure(settings: Settings, *, service: str) -> None:
    """Set up this process: structlog first, then tracing when an exporter is configured."""
    _configure_logs(settings, service)
    if settings.otlp_endpoint:
        _configure_tracing(settings.otlp_endpoint, service)


def _configure_logs(settings: Settings, service: str) -> None:
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]

    def add_agent(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        return {"agent": service, **event}

    common: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        add_agent,
        _add_trace_ids,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderers: list[structlog.typing.Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if as_json
        else [
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
        ]
    )
    structlog.configure(
        processors=common + renderers,
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(cast("TextIO", _Stderr())),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(
        stream=sys.stderr, level=max(level, logging.WARNING), format="%(levelname)s %(name)s %(message)s"
    )


def _add_trace_ids(_: Any, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    context = trace.get_current_span().get_span_context()
    if context.is_valid:
        event["trace_id"] = format(context.trace_id, "032x")
        event["span_id"] = format(context.span_id, "016x")
    return event


def _configure_tracing(endpoint: str, service: str) -> None:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": f"kiki-{service}"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces")))
    trace.set_tracer_provider(provider)
