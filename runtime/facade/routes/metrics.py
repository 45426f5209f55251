"""``GET /metrics``: this process, every agent and every queue, in Prometheus text format."""

import os
import re
from collections.abc import Iterator

import nats.errors
from fastapi import APIRouter, Depends
from fastapi.responses import Response
from nats.js.errors import APIError
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from bus import metrics
from bus.agent import Report
from runtime.facade import metrics as telemetry
from runtime.facade.dependencies import Facade, Parts, admin_only
from runtime.facade.routes.health import agent_reports

router = APIRouter()
_NAME = re.compile(r"[^A-Za-z0-9_]")


@router.get("/metrics", dependencies=[Depends(admin_only)])
async def exposition(parts: Parts) -> Response:
    """Everything that is counted."""
    families = Families()
    _own(families)
    for report in await agent_reports(parts):
        families.report(report)
    await _queues(families, parts)
    registry = CollectorRegistry()
    registry.register(families)
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


class Families:
    """Metric families of many processes merged under their labels; a collector of the Prometheus client."""

    def __init__(self) -> None:
        self._families: dict[str, Metric] = {}
        self._seen: set[tuple[str, frozenset[tuple[str, str]]]] = set()
        self._processes: set[tuple[str, int]] = set()

    def collect(self) -> Iterator[Metric]:
        """All families, by name."""
        yield from (self._families[name] for name in sorted(self._families))

    def report(self, report: Report) -> None:
        """One agent's counters and gauges. Agents that share a process share its counters: told once."""
        said = report.status
        labels = {"agent": said.agent, "pid": str(report.pid), "host": report.host}
        process = (report.host, report.pid)
        if process not in self._processes:
            self._processes.add(process)
            self.text(report.metrics, labels)
        self.gauge("kiki_agent_ready", "Whether the agent takes work", float(said.ready), labels)
        for name, value in said.gauges.items():
            self.gauge(f"kiki_{said.agent}_{name}", f"{name} of {said.agent}", value, labels)

    def text(self, exposed: str, labels: dict[str, str]) -> None:
        """The families of a text exposition, each sample with ``labels`` added."""
        for family in text_string_to_metric_families(exposed):
            for sample in family.samples:
                self._add(
                    family.name, family.documentation, family.type, sample.name, sample.labels | labels, sample.value
                )

    def gauge(self, name: str, documentation: str, value: float, labels: dict[str, str]) -> None:
        """One reading."""
        clean = _NAME.sub("_", name)
        self._add(clean, documentation, "gauge", clean, labels, value)

    def _add(self, family: str, said: str, kind: str, name: str, labels: dict[str, str], value: float) -> None:
        found = self._families.setdefault(family, Metric(family, said, kind))
        identity = (name, frozenset(labels.items()))
        if found.type != kind or identity in self._seen:
            metrics.degraded("facade.metrics", f"{name} is exposed twice")
            return
        self._seen.add(identity)
        found.add_sample(name, labels, value)


def _own(families: Families) -> None:
    labels = {"agent": "facade", "pid": str(os.getpid())}
    for registry in (telemetry.REGISTRY, metrics.REGISTRY):
        families.text(generate_latest(registry).decode(), labels)


async def _queues(families: Families, parts: Facade) -> None:
    """What lies in the streams and what waits at each consumer."""
    connected = parts.bus.client.is_connected
    families.gauge("kiki_broker_connected", "Whether the broker is there", float(connected), {})
    if not connected:
        return
    js = parts.bus.js
    try:
        for stream in await js.streams_info():
            name = str(stream.config.name)
            labels = {"stream": name}
            families.gauge("kiki_stream_messages", "Messages stored", stream.state.messages, labels)
            families.gauge("kiki_stream_bytes", "Bytes stored", stream.state.bytes, labels)
            for consumer in await js.consumers_info(name):
                at = labels | {"consumer": consumer.name}
                families.gauge("kiki_queue_pending", "Messages not delivered", consumer.num_pending or 0, at)
                families.gauge("kiki_queue_unacknowledged", "Messages in hand", consumer.num_ack_pending or 0, at)
    except (TimeoutError, nats.errors.Error, APIError) as error:
        metrics.degraded("facade.queues", repr(error))
