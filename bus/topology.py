"""Declarations of the streams and consumers. :mod:`bus.reconciliation` brings those of the broker to them."""

from functools import partial
from typing import Any

import msgspec
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)

from bus.subjects import ANSWER_KINDS, Subjects
from schemas.dream import QUEUE, RING

TURNS = "TURNS"
ANSWERS = "ANSWERS"
EPISODES = "EPISODES"
ADAPTERS = "ADAPTERS"
DREAMS = "DREAMS"
DREAMLOG = "DREAMLOG"
LATENTS = "LATENTS"
JOBS = "JOBS"
DEAD = "DEAD"
SERVICES = "SERVICES"
STORAGE = "STORAGE"
STREAMS = (TURNS, ANSWERS, EPISODES, ADAPTERS, DREAMS, DREAMLOG, LATENTS, JOBS, DEAD, SERVICES, STORAGE)
"""The streams by the names that this program gives them; :meth:`bus.subjects.Subjects.stream` has the broker's."""

GUESTS = "kiki-guests"
"""The key of TURNS' metadata under which everybody finds who comes after which stage, as JSON."""

TURN_MAX_AGE = 3600.0
"""Seconds that a turn's events are kept."""

TURN_MAX_BYTES = 256 * 1024**2
ANSWER_MAX_BYTES = 2**30
SMALL_MAX_BYTES = 64 * 1024**2
DEAD_MAX_BYTES = 256 * 1024**2
DUPLICATE_WINDOW = 1200.0
"""Seconds for which the broker drops a repeated message id; longer than a turn of the facade with its redeliveries."""

_COMMON: dict[str, Any] = {
    "storage": StorageType.FILE,
    "retention": RetentionPolicy.LIMITS,
    "discard": DiscardPolicy.OLD,
    "duplicate_window": DUPLICATE_WINDOW,
    "allow_direct": True,
}
_QUEUE: dict[str, Any] = {"retention": RetentionPolicy.WORK_QUEUE, "discard": DiscardPolicy.NEW, "allow_direct": None}


def nouns() -> frozenset[str]:
    """The nouns of the runtime's own subjects: of what the streams hold, and of requests."""
    stored = {subject.split(".")[1] for stream in streams(Subjects()) for subject in stream.subjects or ()}
    return frozenset({"svc", "ask", *stored})


def streams(subjects: Subjects, *, replicas: int = 1) -> tuple[StreamConfig, ...]:
    """All streams, declared: turns, answers, the record, adapters, dreams, jobs, dead letters, services, probe."""
    stream = partial(_stream, subjects, replicas=replicas)
    return (
        stream(
            TURNS,
            "Stage events of turns; lost if the single broker dies",
            subjects.turns,
            storage=StorageType.MEMORY,
            max_age=TURN_MAX_AGE,
            max_bytes=TURN_MAX_BYTES,
            metadata={GUESTS: msgspec.json.encode(dict(subjects.guests), order="sorted").decode()},
        ),
        stream(
            ANSWERS,
            "How turns ended; the memory overwrites what is an hour old and in the record",
            subjects.answers,
            discard=DiscardPolicy.NEW,
            max_bytes=ANSWER_MAX_BYTES,
        ),
        stream(EPISODES, "The record of answered turns; never purged", subjects.episodes, discard=DiscardPolicy.NEW),
        stream(
            ADAPTERS,
            "Lives of adapters: proposed, published, activated, rejected, unloaded",
            subjects.adapters,
            max_bytes=SMALL_MAX_BYTES,
        ),
        stream(
            DREAMS,
            "Dream episodes that wait; a work queue that refuses when it is full",
            subjects.dreams,
            max_msgs=QUEUE,
            **_QUEUE,
        ),
        stream(
            DREAMLOG,
            "One entry for each dream episode that was executed, and swaps",
            subjects.dream_log,
            max_bytes=SMALL_MAX_BYTES,
        ),
        stream(LATENTS, "The latest latent snapshots, in a ring of the broker's", subjects.latents, max_msgs=RING),
        stream(
            JOBS,
            "Calls to the model; a work queue",
            subjects.jobs,
            storage=StorageType.MEMORY,
            max_age=DUPLICATE_WINDOW,
            max_bytes=SMALL_MAX_BYTES,
            **_QUEUE,
        ),
        stream(DEAD, "Messages that were given up, with the reason", subjects.dead_letters, max_bytes=DEAD_MAX_BYTES),
        stream(
            SERVICES,
            "Registrations, and what other services consumed and advised",
            subjects.services,
            max_bytes=SMALL_MAX_BYTES,
        ),
        stream(STORAGE, "One small message, to see whether the broker stores", [subjects.storage_probe], max_msgs=1),
    )


def _stream(
    grammar: Subjects, name: str, description: str, subjects: list[str], *, replicas: int, **settings: Any
) -> StreamConfig:
    """A stream on disk that drops its oldest messages when it is full, unless ``settings`` say otherwise."""
    options = {**_COMMON, **settings}
    return StreamConfig(
        name=grammar.stream(name), description=description, subjects=subjects, num_replicas=replicas, **options
    )


def read_guests(turns: StreamConfig) -> dict[str, tuple[str, ...]]:
    """The ``guests`` of :class:`bus.subjects.Subjects` as the runtime's settings have them, from the stream of turns.

    Empty where an earlier version declared it, or somebody has written something else there.
    """
    try:
        return msgspec.json.decode((turns.metadata or {}).get(GUESTS, "{}"), type=dict[str, tuple[str, ...]])
    except msgspec.DecodeError:
        return {}


def stream_of(kind: type[Any]) -> str:
    """The stream that holds events of that kind."""
    return ANSWERS if kind in ANSWER_KINDS else TURNS


def pending_limit(concurrency: int, *, slots: int = 0) -> int:
    """How many messages of a consumer may wait for their acknowledgement, with so many in hand at once."""
    return max(64, 4 * concurrency, 2 * slots)


def consumer(durable: str, filters: list[str], *, ack_wait: float, max_ack_pending: int) -> ConsumerConfig:
    """A durable pull consumer of a handler.

    The broker does not bound the number of deliveries: the handler does, and files a dead letter before it gives up.
    """
    return ConsumerConfig(
        durable_name=durable,
        name=durable,
        filter_subjects=filters,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=ack_wait,
        deliver_policy=DeliverPolicy.ALL,
        max_deliver=-1,
        max_ack_pending=max_ack_pending,
    )
