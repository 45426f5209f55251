"""Streams and consumers: declared here, reconciled at start. Drift is an error that says what differs."""

from collections.abc import Iterable
from functools import partial
from typing import Any

from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DeliverPolicy,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)

from bus.errors import NOT_FOUND
from bus.subjects import Subjects
from schemas.dream import QUEUE, RING
from schemas.errors import SetupError
from schemas.events import AnswerReady

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

TURN_MAX_AGE = 3600.0
"""Seconds that a turn's events are kept."""

TURN_MAX_BYTES = 256 * 1024**2
ANSWER_MAX_BYTES = 2**30
SMALL_MAX_BYTES = 64 * 1024**2
DUPLICATE_WINDOW = 600.0
"""Seconds in which a message id is published once; longer than any turn's deadline plus its redeliveries."""


_COMMON: dict[str, Any] = {
    "storage": StorageType.FILE,
    "retention": RetentionPolicy.LIMITS,
    "discard": DiscardPolicy.OLD,
    "duplicate_window": DUPLICATE_WINDOW,
    "allow_direct": True,
}
_QUEUE: dict[str, Any] = {"retention": RetentionPolicy.WORK_QUEUE, "discard": DiscardPolicy.NEW, "allow_direct": None}


def streams(subjects: Subjects, *, replicas: int = 1) -> tuple[StreamConfig, ...]:
    """The streams of design section 2, the lives of adapters, dreams, and the log of what other services consumed."""

    stream = partial(_stream, replicas=replicas)
    return (
        stream(
            TURNS,
            "Stage events of turns; lost if the single broker dies",
            subjects.turns,
            storage=StorageType.MEMORY,
            max_age=TURN_MAX_AGE,
            max_bytes=TURN_MAX_BYTES,
        ),
        stream(
            ANSWERS,
            "Answers until they are in the record; an hour later the memory overwrites them",
            subjects.answers,
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
        stream(
            LATENTS,
            "The latest latent snapshots, in a ring that the broker keeps to its size",
            subjects.latents,
            max_msgs=RING,
        ),
        stream(
            JOBS,
            "Calls to the model; a work queue",
            subjects.jobs,
            storage=StorageType.MEMORY,
            max_age=DUPLICATE_WINDOW,
            max_bytes=SMALL_MAX_BYTES,
            **_QUEUE,
        ),
        stream(DEAD, "Messages that were given up, with the reason", subjects.dead_letters, max_bytes=SMALL_MAX_BYTES),
        stream(SERVICES, "What other services consumed of the record", subjects.services, max_bytes=SMALL_MAX_BYTES),
    )


def _stream(name: str, description: str, subjects: list[str], *, replicas: int, **settings: Any) -> StreamConfig:
    """On disk and dropping the oldest, unless ``settings`` say otherwise."""
    options = {**_COMMON, **settings}
    return StreamConfig(name=name, description=description, subjects=subjects, num_replicas=replicas, **options)


def stream_of(kind: type[Any]) -> str:
    """The stream that holds a turn's event of that kind."""
    return ANSWERS if kind is AnswerReady else TURNS


_STREAM_FIELDS = (
    "subjects",
    "storage",
    "retention",
    "discard",
    "max_age",
    "max_bytes",
    "max_msgs",
    "duplicate_window",
    "num_replicas",
)
_CONSUMER_FIELDS = ("filter_subjects", "ack_policy", "ack_wait", "deliver_policy", "max_ack_pending")


async def reconcile_streams(js: JetStreamContext, configs: Iterable[StreamConfig]) -> None:
    """Create what is missing.

    Raises:
        SetupError: a stream exists with other settings; it is left as it is.
    """
    for config in configs:
        name = str(config.name)
        try:
            current = (await js.stream_info(name)).config
        except NOT_FOUND:
            await js.add_stream(config)
            continue
        _refuse_drift("stream", name, config, current, _STREAM_FIELDS)


def consumer(durable: str, filters: list[str], *, ack_wait: float, max_ack_pending: int) -> ConsumerConfig:
    """A durable pull consumer. The number of deliveries is bounded by the handler, which dead-letters first."""
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


async def reconcile_consumer(js: JetStreamContext, stream: str, config: ConsumerConfig) -> None:
    """Create the consumer if it is missing.

    Raises:
        SetupError: it exists with other settings; it is left as it is.
    """
    durable = str(config.durable_name)
    try:
        current = (await js.consumer_info(stream, durable)).config
    except NOT_FOUND:
        await js.add_consumer(stream, config)
        return
    _refuse_drift("consumer", f"{stream}/{durable}", config, current, _CONSUMER_FIELDS)


def _comparable_value(config: Any, field: str) -> Any:
    value = getattr(config, field)
    if field == "filter_subjects":
        single = config.filter_subject
        return sorted(value or ([single] if single else []))
    if field == "subjects":
        return sorted(value or [])
    if field in ("max_bytes", "max_msgs"):
        return -1 if value in (None, 0) else value
    if field == "max_age":
        return float(value or 0)
    return value


def _refuse_drift(kind: str, name: str, expected: Any, current: Any, fields: tuple[str, ...]) -> None:
    differences = [
        f"{field} is {_comparable_value(current, field)!r}, expected {_comparable_value(expected, field)!r}"
        for field in fields
        if _comparable_value(current, field) != _comparable_value(expected, field)
    ]
    if differences:
        raise SetupError(
            f"{kind} {name} differs from its declaration: {'; '.join(differences)}. "
            f"Delete it with 'nats {kind} rm' if it holds nothing to keep, or set the values back."
        )
