"""Metrics of each process's agents; the facade's ``/metrics`` gathers those of all processes over the bus."""

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics

disable_created_metrics()  # type: ignore[no-untyped-call]  # they add a gauge to each counter that nobody reads

REGISTRY = CollectorRegistry()
"""This process's metrics. Not the library's default registry, which adds collectors of the platform."""

BUCKETS = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)

HANDLED = Counter("kiki_handled", "Messages by outcome", ["stage", "outcome"], registry=REGISTRY)
STAGE_SECONDS = Histogram(
    "kiki_stage_seconds", "Seconds from delivery to publish", ["stage"], registry=REGISTRY, buckets=BUCKETS
)
REDELIVERED = Counter("kiki_redeliveries", "Messages delivered more than once", ["stage"], registry=REGISTRY)
DEAD = Counter("kiki_dead_letters", "Messages given up", ["stage", "reason"], registry=REGISTRY)
DEGRADED = Counter("kiki_degraded", "Times a degraded path was taken", ["path"], registry=REGISTRY)
RESTARTED = Counter("kiki_subscription_restarts", "Subscriptions brought back", ["stage"], registry=REGISTRY)
REFUSED = Counter("kiki_refused", "Requests answered with an error", ["verb", "code"], registry=REGISTRY)
IN_FLIGHT = Gauge("kiki_in_flight", "Messages being handled", ["stage"], registry=REGISTRY)

RESIDENT = Gauge("kiki_process_resident_bytes", "Bytes of the process that are in memory", registry=REGISTRY)

MAX_KINDS = 32
"""Kinds of reasons that are logged of one degraded path, however many there are."""

_log = structlog.get_logger("bus")
_logged_kinds: dict[str, set[str]] = {}


def count_degraded(path: str, why: str, *, kind: str = "") -> None:
    """Count each time that a degraded path is taken, and log the first time of each ``kind`` with its reason (``why``).

    A path logs at most :data:`MAX_KINDS` kinds.
    """
    DEGRADED.labels(path).inc()
    kinds = _logged_kinds.setdefault(path, set())
    if kind not in kinds and len(kinds) < MAX_KINDS:
        kinds.add(kind)
        _log.warning("path degraded", path=path, error=why)


def read_resident_bytes() -> int:
    """Bytes of this process that are in memory."""
    import psutil

    return int(psutil.Process().memory_info().rss)


RESIDENT.set_function(read_resident_bytes)
