"""The facade's own counters."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from bus.metrics import BUCKETS

REGISTRY = CollectorRegistry()
"""Apart from the bus's registry, which an agent in the same process reports as its own."""

TURNS = Counter("kiki_turns", "Turns by level and how they ended", ["level", "outcome"], registry=REGISTRY)
TURN_SECONDS = Histogram(
    "kiki_turn_seconds", "Seconds from request to answer", ["level"], registry=REGISTRY, buckets=(*BUCKETS, 120)
)
FIRST_TOKEN_SECONDS = Histogram(
    "kiki_first_token_seconds", "Seconds from request to the first text", ["level"], registry=REGISTRY, buckets=BUCKETS
)
TURNS_IN_FLIGHT = Gauge("kiki_turns_in_flight", "Turns being followed", registry=REGISTRY)
REQUESTS = Counter("kiki_http_requests", "Requests by route and status", ["route", "status"], registry=REGISTRY)
