"""``GET /metrics``: this process, every agent and every queue, in Prometheus text format."""

import os
import re
import socket
from collections.abc import Iterator, Sequence

from fastapi import APIRouter, Depends
from fastapi.responses import Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from bus import metrics
from bus.consumers import read_consumers
from bus.stream import measure_streams
from runtime.agents import FACADE
from runtime.facade import metrics as telemetry
from runtime.facade.dependencies import Facade, Parts, require_admin_key
from runtime.facade.routes.health import collect_agent_reports
from schemas.errors import Unavailable
from schemas.status import AgentReport

router = APIRouter()
_NAME = re.compile(r"[^A-Za-z0-9_]")


@router.get("/metrics", dependencies=[Depends(require_admin_key)])
async def expose_metrics(parts: Parts) -> Response:
    """Everything that is counted."""
    families = MetricFamilies()
    families.add_text(generate_latest(telemetry.REGISTRY).decode(), {"agent": FACADE, "pid": str(os.getpid())})
    _add_processes(families, await collect_agent_reports(parts))
    await _add_queue_metrics(families, parts)
    registry = CollectorRegistry()
    registry.register(families)
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


class MetricFamilies:
    """Metric families of many processes merged under their labels; a collector of the Prometheus client."""

    def __init__(self) -> None:
        self._families: dict[str, Metric] = {}
        self._seen: set[tuple[str, frozenset[tuple[str, str]]]] = set()

    def collect(self) -> Iterator[Metric]:
        """All families, by name."""
        yield from (self._families[name] for name in sorted(self._families))

    def add_status(self, report: AgentReport) -> None:
        """Add whether the agent takes work, and its own gauges."""
        status = report.status
        labels = {"agent": status.agent, "pid": str(report.pid), "host": report.host}
        self.add_gauge("kiki_agent_ready", "Whether the agent takes work", float(status.ready), labels)
        for name, value in status.gauges.items():
            self.add_gauge(f"kiki_{status.agent}_{name}", f"{name} of {status.agent}", value, labels)

    def add_text(self, metrics_text: str, labels: dict[str, str]) -> None:
        """Add the families of a text exposition, each sample with ``labels`` added."""
        for family in text_string_to_metric_families(metrics_text):
            for sample in family.samples:
                self._add(
                    family.name, family.documentation, family.type, sample.name, sample.labels | labels, sample.value
                )

    def add_gauge(self, name: str, documentation: str, value: float, labels: dict[str, str]) -> None:
        """Add one reading."""
        clean = _NAME.sub("_", name)
        self._add(clean, documentation, "gauge", clean, labels, value)

    def _add(self, family: str, documentation: str, kind: str, name: str, labels: dict[str, str], value: float) -> None:
        metric = self._families.setdefault(family, Metric(family, documentation, kind))
        identity = (name, frozenset(labels.items()))
        if metric.type != kind or identity in self._seen:
            metrics.count_degraded("facade.metrics", f"{name} is exposed twice")
            return
        self._seen.add(identity)
        metric.add_sample(name, labels, value)


def _add_processes(families: MetricFamilies, all_reports: Sequence[AgentReport]) -> None:
    """Add the counters of each process once, under the names of all agents in it: it counts for them together."""
    own = (socket.gethostname(), os.getpid())
    members: dict[tuple[str, int], list[AgentReport]] = {own: []}
    for report in all_reports:
        families.add_status(report)
        members.setdefault((report.host, report.pid), []).append(report)
    for process, reports in members.items():
        host, pid = process
        names = [report.status.agent for report in reports] + ([FACADE] if process == own else [])
        counters = generate_latest(metrics.REGISTRY).decode() if process == own else reports[0].metrics
        families.add_text(counters, {"agent": "+".join(dict.fromkeys(names)), "pid": str(pid), "host": host})


async def _add_queue_metrics(families: MetricFamilies, parts: Facade) -> None:
    """Add the sizes of the streams and what waits at each of their consumers."""
    connected = parts.bus.is_connected
    families.add_gauge("kiki_broker_connected", "Whether the broker is there", float(connected), {})
    if not connected:
        return
    try:
        for name, size in (await measure_streams(parts.bus)).items():
            labels = {"stream": name}
            families.add_gauge("kiki_stream_messages", "Messages stored", size.messages, labels)
            families.add_gauge("kiki_stream_bytes", "Bytes stored", size.bytes, labels)
            for consumer in await read_consumers(parts.bus, name):
                consumer_labels = labels | {"consumer": consumer.name}
                families.add_gauge("kiki_queue_pending", "Messages not delivered", consumer.pending, consumer_labels)
                families.add_gauge(
                    "kiki_queue_unacknowledged",
                    "Messages delivered and not acknowledged",
                    consumer.awaiting_ack,
                    consumer_labels,
                )
    except Unavailable as error:
        metrics.count_degraded("facade.queues", error.message)
