"""Bring streams and consumers to their declarations when a process starts.

A difference (a "drift") that the broker can change without losing a message is updated in place: positions, stored
messages and unacknowledged messages stay. Any other drift is refused with an error that names what would be lost and
the command that mends it, and nothing is changed. Where two processes declare the same stream or consumer differently,
the one that starts last decides: a running process only creates again what is missing (:func:`create_missing_streams`,
:func:`create_missing_consumer`).
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from nats.js import JetStreamContext
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    ConsumerInfo,
    DeliverPolicy,
    DiscardPolicy,
    RetentionPolicy,
    StreamConfig,
    StreamInfo,
)

from bus.errors import NOT_FOUND, REJECTED, code_of, describe, is_away
from bus.subjects import covers
from bus.topology import GUESTS
from schemas.errors import SetupError

_STREAM_FIELDS = (
    "description",
    "subjects",
    "storage",
    "retention",
    "discard",
    "max_age",
    "max_bytes",
    "max_msgs",
    "duplicate_window",
    "num_replicas",
    "allow_direct",
    "metadata",
)
_CONSUMER_FIELDS = (
    "description",
    "filter_subjects",
    "ack_policy",
    "ack_wait",
    "deliver_policy",
    "max_ack_pending",
    "max_deliver",
)

_NAME_IN_USE = 10058
"""The broker's code for a stream that another process has created meanwhile with other settings."""

_PROBE_SECONDS = 5.0
"""Seconds after which the broker deletes a probe that its own process could not delete."""

_log = structlog.get_logger("bus")


async def reconcile_streams(js: JetStreamContext, configs: Iterable[StreamConfig]) -> None:
    """Create the streams that are missing and update those that differ.

    Raises:
        SetupError: an update would lose messages, or the broker refuses it; that stream is left as it is.
    """
    for config in configs:
        if not await _create_stream(js, config):
            await _update_stream(js, config)


async def create_missing_streams(js: JetStreamContext, configs: Iterable[StreamConfig]) -> None:
    """Create the streams that are missing; those that exist stay as they are."""
    for config in configs:
        await _create_stream(js, config)


async def reconcile_consumer(
    js: JetStreamContext, stream: str, config: ConsumerConfig, *, removal: str | None = None
) -> None:
    """Create the durable consumer if it is missing, update it in place if it differs.

    An update keeps the consumer's position, its unacknowledged messages, and every field that is not compared.
    ``removal`` is the command with which an operator deletes the consumer so that it is created anew; the error names
    it. None names the command of the ``nats`` tool.

    Raises:
        SetupError: an update would lose or repeat messages, or the broker refuses it; the consumer is left as it is.
    """
    if await create_missing_consumer(js, stream, config):
        return
    info = await js.consumer_info(stream, str(config.durable_name))
    drifts = _find_drifts(config, info.config, _CONSUMER_FIELDS)
    if not drifts:
        return
    name = f"consumer {stream}/{info.name}"
    removal = removal or f"nats consumer rm {stream} {info.name} -f"
    _refuse_losses(name, drifts, await _find_consumer_losses(js, info, config, drifts, removal))
    changes = {drift.field: getattr(config, drift.field) for drift in drifts}
    if "filter_subjects" in changes:
        changes["filter_subject"] = None  # the older field for a single filter excludes filter_subjects
    try:
        await js.add_consumer(stream, info.config.evolve(**changes))
    except REJECTED as error:
        if is_away(error):
            raise
        raise _explain_rejection(name, drifts, error) from error
    _log.info("consumer updated", stream=stream, consumer=info.name, **_describe_changes(drifts))


async def create_missing_consumer(js: JetStreamContext, stream: str, config: ConsumerConfig) -> bool:
    """Create the durable consumer if it is missing; one that exists stays as it is.

    Returns:
        Whether it was missing.
    """
    try:
        await js.consumer_info(stream, str(config.durable_name))
    except NOT_FOUND:
        await js.add_consumer(stream, config)
        return True
    return False


async def probe_stream(js: JetStreamContext, stream: str, **position: Any) -> ConsumerInfo:
    """Create and delete a consumer that begins at ``position`` (fields of its configuration); returns its information.

    ``num_pending`` counts the messages that it would read, ``delivered`` is the sequence before the first of them.
    Nothing is read. A work queue takes no such probe: it refuses consumers without acknowledgement.
    """
    config = ConsumerConfig(
        ack_policy=AckPolicy.NONE, inactive_threshold=_PROBE_SECONDS, mem_storage=True, num_replicas=1, **position
    )
    info = await js.add_consumer(stream, config)
    await js.delete_consumer(stream, info.name)
    return info


@dataclass(frozen=True)
class _Drift:
    """A field whose value at the broker is not the declared one."""

    field: str
    current: Any
    declared: Any

    def __str__(self) -> str:
        return f"{self.field} is {self.current!r}, expected {self.declared!r}"


@dataclass(frozen=True)
class _Loss:
    """What an update of ``field`` would lose, and how the operator mends the drift."""

    field: str
    text: str
    mend: str


def _find_drifts(declared: Any, current: Any, fields: Sequence[str]) -> list[_Drift]:
    """The fields that differ. A description that is not declared is no difference."""
    values = ((field, _comparable_value(current, field), _comparable_value(declared, field)) for field in fields)
    return [
        _Drift(field, current_value, declared_value)
        for field, current_value, declared_value in values
        if current_value != declared_value and not (field == "description" and not declared_value)
    ]


def _comparable_value(config: Any, field: str) -> Any:
    """The field's value with the broker's and nats-py's ways to say "none" made equal."""
    value = getattr(config, field)
    if field == "filter_subjects":
        return sorted(value or [config.filter_subject or ">"])
    if field == "subjects":
        return sorted(value or [])
    if field in ("max_bytes", "max_msgs", "max_deliver"):
        return -1 if value in (None, 0) else value
    if field == "max_age":
        return float(value or 0)
    if field == "num_replicas":
        return value or 1
    if field == "allow_direct":
        return bool(value)
    if field == "metadata":  # what the broker and operators write there is theirs
        return (value or {}).get(GUESTS)
    return getattr(value, "value", value)


def _refuse_losses(name: str, drifts: Sequence[_Drift], losses: Sequence[_Loss]) -> None:
    """Raise SetupError when an update would lose anything."""
    if not losses:
        return
    drift_by_field = {drift.field: drift for drift in drifts}
    reasons = [f"{drift_by_field[loss.field]}: {loss.text}. {loss.mend}" for loss in losses]
    raise SetupError(f"{name} differs from its declaration and was not changed: {' '.join(reasons)}")


def _explain_rejection(name: str, drifts: Sequence[_Drift], error: Exception) -> SetupError:
    differences = "; ".join(str(drift) for drift in drifts)
    reason = getattr(error, "description", None) or describe(error)
    return SetupError(
        f"{name} differs from its declaration and the broker refuses to change it ({reason}): "
        f"{differences}. Set the values back."
    )


def _describe_changes(drifts: Sequence[_Drift]) -> dict[str, str]:
    return {drift.field: f"{drift.current} -> {drift.declared}" for drift in drifts}


async def _create_stream(js: JetStreamContext, config: StreamConfig) -> bool:
    """Create the stream if it is missing; returns False when it exists."""
    try:
        await js.stream_info(str(config.name))
    except NOT_FOUND:
        try:
            await js.add_stream(config)
        except REJECTED as error:
            if code_of(error) != _NAME_IN_USE:
                raise
            return False
        return True
    return False


async def _update_stream(js: JetStreamContext, config: StreamConfig) -> None:
    info = await js.stream_info(str(config.name))
    drifts = _find_drifts(config, info.config, _STREAM_FIELDS)
    if not drifts:
        return
    name = f"stream {config.name}"
    _refuse_losses(name, drifts, await _find_stream_losses(js, info, config, drifts))
    changes = {drift.field: getattr(config, drift.field) for drift in drifts}
    if "metadata" in changes:
        changes["metadata"] = (info.config.metadata or {}) | (config.metadata or {})
    try:
        await js.update_stream(info.config.evolve(**changes))
    except REJECTED as error:
        if is_away(error):
            raise
        raise _explain_rejection(name, drifts, error) from error
    _log.info("stream updated", stream=config.name, **_describe_changes(drifts))


async def _find_stream_losses(
    js: JetStreamContext, info: StreamInfo, declared: StreamConfig, drifts: Sequence[_Drift]
) -> list[_Loss]:
    name, messages = str(declared.name), info.state.messages
    losses = []
    for drift in drifts:
        if drift.field in ("storage", "retention"):
            losses.append(
                _Loss(
                    drift.field,
                    f"it cannot change in place, and a new stream begins without the {messages} messages of this one",
                    f"'nats stream rm {name} -f' deletes it with the positions of its {info.state.consumer_count} "
                    "consumers, and the next start makes it anew; 'nats stream backup' keeps a copy first.",
                )
            )
        elif drift.field == "num_replicas" and drift.declared < drift.current:
            losses.append(
                _Loss(
                    drift.field,
                    f"{drift.current - drift.declared} of {drift.current} copies would be dropped",
                    f"Set KIKI_REPLICAS={drift.current}, or drop them with "
                    f"'nats stream edit {name} --replicas {drift.declared} -f'.",
                )
            )
        elif drift.field == "subjects" and (count := await _count_left_out(js, info, drift)):
            text = f"{count} stored messages are on subjects that are left out"
            losses.append(_Loss(drift.field, text, _describe_purge(name, drift)))
    return losses + await _find_overflows(js, info, declared, {drift.field for drift in drifts})


def _describe_purge(name: str, drift: _Drift) -> str:
    uncovered, kept_parts = _compare_patterns(drift)
    if kept_parts:  # purging the wider current subject would delete messages on declared ones, too
        return "Put the subjects back."
    commands = [f"'nats stream purge {name} --subject \"{subject}\" -f'" for subject in uncovered]
    return f"Delete them with {' and '.join(commands)}, or put the subjects back."


async def _find_overflows(
    js: JetStreamContext, info: StreamInfo, declared: StreamConfig, fields: set[str]
) -> list[_Loss]:
    """What the declared limits would drop. A stream that discards new messages keeps those beyond its limits."""
    name, state = str(declared.name), info.state
    limits = {field: int(_comparable_value(declared, field)) for field in ("max_msgs", "max_bytes")}
    stored = {"max_msgs": (state.messages, "messages"), "max_bytes": (state.bytes, "bytes")}
    losses = []
    for field, limit in limits.items():
        amount, unit = stored[field]
        # An unchanged limit drops messages, too, once the discard policy changes from new to old.
        changed = field if field in fields else "discard"
        if changed in fields and declared.discard == DiscardPolicy.OLD and 0 <= limit < amount:
            option = field.replace("_", "-")
            losses.append(
                _Loss(
                    changed,
                    f"it holds {amount} {unit}, and the oldest beyond {limit} would be dropped",
                    f"Drop them with 'nats stream edit {name} --discard old --{option} {limit} -f', or set it back.",
                )
            )
    max_age = float(declared.max_age or 0)
    if "max_age" in fields and max_age and await _is_older(js, info, time.time() - max_age):
        text = _duration(max_age)
        losses.append(
            _Loss(
                "max_age",
                f"of its {state.messages} messages those older than {text} would be dropped",
                f"Drop them with 'nats stream edit {name} --max-age {text} -f', or set it back.",
            )
        )
    return losses


async def _is_older(js: JetStreamContext, info: StreamInfo, moment: float) -> bool:
    """Whether the oldest message was stored before that Unix time."""
    if not info.state.messages:
        return False
    oldest = await js.get_msg(str(info.config.name), seq=info.state.first_seq)
    return oldest.time is not None and oldest.time.timestamp() < moment


def _duration(seconds: float) -> str:
    """Seconds in the notation of the ``nats`` command line."""
    return f"{int(seconds)}s" if seconds == int(seconds) else f"{round(seconds * 1000)}ms"


async def _find_consumer_losses(
    js: JetStreamContext, info: ConsumerInfo, declared: ConsumerConfig, drifts: Sequence[_Drift], removal: str
) -> list[_Loss]:
    stream_info = await js.stream_info(info.stream_name)
    losses = []
    for drift in drifts:
        if drift.field in ("ack_policy", "deliver_policy"):
            losses.append(
                _Loss(
                    drift.field,
                    "it cannot change in place, and a new consumer begins without this one's position",
                    f"After '{removal}' it is made anew and reads {_describe_start(declared, stream_info)}.",
                )
            )
        elif drift.field == "filter_subjects":
            losses += await _find_filter_losses(js, stream_info, info, drift, removal)
    return losses


def _describe_start(declared: ConsumerConfig, info: StreamInfo) -> str:
    if declared.deliver_policy == DeliverPolicy.ALL:
        return f"from the first of the {info.state.messages} stored messages, again what was acknowledged"
    return f"by its deliver_policy '{_comparable_value(declared, 'deliver_policy')}'"


async def _find_filter_losses(
    js: JetStreamContext, stream_info: StreamInfo, info: ConsumerInfo, drift: _Drift, removal: str
) -> list[_Loss]:
    """What other filter subjects would lose: waiting messages that would not be read any more, and stored messages on
    new subjects that lie before the consumer's position and would never be read.
    """
    field = drift.field
    position = info.delivered.stream_seq if info.delivered else 0
    filters = " ".join(f'--filter "{subject}"' for subject in drift.declared)
    edit = f"nats consumer edit {info.stream_name} {info.name} {filters} -f"
    if stream_info.config.retention == RetentionPolicy.WORK_QUEUE:
        # A work queue takes no probe, so it is not known which of its messages wait for this consumer.
        waiting = stream_info.state.messages
        text = f"{waiting} messages of the queue wait, and some of them might not be read"
        mend = f"Let the former version read them first, or deliver again what is in hand after '{removal}'."
        return [_Loss(field, text, mend)] if waiting else []
    losses = []
    if count := await _count_left_out(js, stream_info, drift, after=position):
        text = f"{count} messages wait on subjects that are left out"
        losses.append(_Loss(field, text, f"Let the former version read them first, or give them up with '{edit}'."))
    # The drift in the other direction: what it would leave out is what the new subjects add.
    reverse_drift = _Drift(field, drift.declared, drift.current)
    added_count = await _count_left_out(js, stream_info, reverse_drift)
    if count := added_count - await _count_left_out(js, stream_info, reverse_drift, after=position):
        text = f"{count} stored messages on the new subjects lie before its position {position}"
        mend = f"Pass over them with '{edit}', or read everything that is stored again after '{removal}'."
        losses.append(_Loss(field, text, mend))
    return losses


def _compare_patterns(drift: _Drift) -> tuple[list[str], list[str]]:
    """The current subjects that no declared one covers as a whole, and the declared ones that lie within those."""
    uncovered = [subject for subject in drift.current if not any(covers(wide, subject) for wide in drift.declared)]
    return uncovered, [subject for subject in drift.declared if any(covers(wide, subject) for wide in uncovered)]


async def _count_left_out(js: JetStreamContext, info: StreamInfo, drift: _Drift, *, after: int = 0) -> int:
    """How many stored messages beyond the sequence ``after`` are on current subjects and not on declared ones.

    Where a current and a declared pattern match only a part of each other, messages on both are counted, too.
    """
    uncovered, kept_parts = _compare_patterns(drift)
    return await _count(js, info, uncovered, after) - await _count(js, info, kept_parts, after)


async def _count(js: JetStreamContext, info: StreamInfo, subjects: Sequence[str], after: int) -> int:
    """How many stored messages on ``subjects`` lie beyond the sequence ``after``, which is 0 for a work queue."""
    stream = str(info.config.name)
    if not subjects:
        return 0
    if info.config.retention == RetentionPolicy.WORK_QUEUE:
        states = [(await js.stream_info(stream, subjects_filter=subject)).state for subject in subjects]
        return sum(sum((state.subjects or {}).values()) for state in states)
    probe = await probe_stream(
        js,
        stream,
        filter_subjects=list(subjects),
        deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
        opt_start_seq=after + 1,
    )
    return probe.num_pending or 0
