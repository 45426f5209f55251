"""A turn as rows of a waterfall: when each stage worked, how much of it was model compute, what it decided."""

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bus.turns.events import StoredEvent
from runtime.agents import turn_stages
from schemas.events import (
    AnswerReady,
    DissentRaised,
    DissentWaived,
    EpisodeRecorded,
    Event,
    InferDone,
    NegotiateDone,
    QueryReceived,
    QueryRouted,
    RecallDone,
    TurnCancelled,
    TurnFailed,
)
from schemas.findings import AdapterUse, StageTiming

BAR, SHORT_BAR = 32, 10
"""Characters of the longest bar, on a wide terminal and on a narrow one."""

WITHOUT_BAR = 78
"""Columns for everything else; on fewer the bar is shorter. An id of 36 characters stays whole on 80 columns."""


@dataclass(frozen=True)
class WaterfallRow:
    """One stage. ``start`` and ``duration`` are seconds from the turn's beginning; ``compute`` within them."""

    stage: str
    start: float
    duration: float
    compute: float
    attempt: int
    decision: str


@dataclass(frozen=True)
class Waterfall:
    """A turn's rows in order of start, how it ended, and the time until the answer."""

    turn_id: str
    question: str
    rows: tuple[WaterfallRow, ...]
    ending: str
    total: float


def waterfall(story: Sequence[StoredEvent]) -> Waterfall:
    """Lay out a turn's story (at least one event)."""
    events = [entry.event for entry in story]
    began = min(event.envelope.created_at for event in events)
    timings = {timing.stage: timing for event in events for timing in getattr(event, "timings", ())}
    write_timing = _write_timing(events)
    if write_timing is not None:
        timings[write_timing.stage] = write_timing
    decisions = describe_decisions([entry.event for entry in story if not entry.guest])
    for entry in story:
        if entry.guest:
            decisions[entry.guest] = " ".join(describe_decisions([entry.event]).values())
    rows = tuple(
        WaterfallRow(
            stage=timing.stage,
            start=timing.started_at - began,
            duration=timing.duration,
            compute=timing.compute,
            attempt=timing.attempt,
            decision=decisions.get(timing.stage, ""),
        )
        for timing in sorted(timings.values(), key=lambda timing: timing.started_at)
    )
    after_answer = {stage.name for stage in turn_stages() if stage.position == "after"}
    end = max((timing.finished_at for timing in timings.values() if timing.stage not in after_answer), default=began)
    question = next((event.query.text for event in events if isinstance(event, QueryReceived)), "")
    return Waterfall(events[0].envelope.turn_id, question, rows, _ending(events), end - began)


def _write_timing(events: Sequence[Event]) -> StageTiming | None:
    """The timing of the memory's write, which no event holds: from the answer to the recorded episode."""
    ready = next((event for event in events if isinstance(event, AnswerReady)), None)
    episode_recorded = next((event for event in events if isinstance(event, EpisodeRecorded)), None)
    if ready is None or episode_recorded is None:
        return None
    return StageTiming(
        stage="memory-write", started_at=ready.envelope.created_at, finished_at=episode_recorded.envelope.created_at
    )


def describe_decisions(events: Sequence[Event]) -> dict[str, str]:
    """What each stage decided, in a few words."""
    decisions: dict[str, str] = {}
    for event in events:
        match event:
            case QueryRouted():
                domains = ", ".join(f"{domain.name} {domain.score:.2f}" for domain in event.route.domains) or "base"
                decisions["router"] = f"{event.route.plan.level}: {domains}"
            case RecallDone():
                decisions["memory"] = f"{len(event.recall.hits)} recalled" if event.route.plan.recall else "left out"
                if event.recall.history:
                    decisions["memory"] += f", {len(event.recall.history)} of history"
            case InferDone():
                decisions["inference"] = _candidates(event)
            case DissentRaised():
                decisions["catfish"] = f"{event.dissent.tone} dissent: {shortened(event.dissent.text)}"
            case DissentWaived():
                decisions["catfish"] = f"waived: {event.dissent.reason}"
            case NegotiateDone():
                negotiation = event.negotiation
                decisions["negotiator"] = (
                    f"{negotiation.outcome}, candidate {negotiation.chosen}, {negotiation.rounds} rounds"
                )
            case AnswerReady():
                decisions["antibias"] = _bias(event)
            case EpisodeRecorded():
                decisions["memory-write"] = f"episode {event.episode.episode_id}"
            case _:
                pass
    return decisions


def _candidates(event: InferDone) -> str:
    count = len(event.inference.candidates)
    uses = event.inference.candidates[0].adapters
    return (
        f"{count} candidate{'s' if count > 1 else ''}, {event.inference.usage.completion_tokens} tokens, {_names(uses)}"
    )


def _names(uses: Sequence[AdapterUse]) -> str:
    return "+".join(use.name for use in uses) or "base model"


def _bias(event: AnswerReady) -> str:
    bias = event.bias
    if bias.refused:
        return f"refused: {bias.reason}"
    if bias.revised:
        return f"revised: {bias.reason}"
    return bias.reason or ("nothing found" if bias.checked else "left out")


def shortened(text: str, limit: int = 60) -> str:
    """The text as one line of at most ``limit`` characters."""
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def _ending(events: Sequence[Event]) -> str:
    for event in reversed(events):
        if isinstance(event, TurnFailed):
            return f"failed in {event.stage}: {event.code}: {event.message}"
        if isinstance(event, TurnCancelled):
            return f"cancelled: {event.reason}"
        if isinstance(event, AnswerReady):
            return "answered"
    return "under way"


def draw_waterfall(picture: Waterfall, *, columns: int = 120) -> RenderableType:
    """The waterfall for a terminal of so many columns; a narrow one has shorter bars, and room for what was decided."""
    bar = max(SHORT_BAR, min(BAR, columns - WITHOUT_BAR))
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("stage", no_wrap=True)
    end = f"{picture.total * 1000:.0f} ms"
    table.add_column(f"0 … {end}" if len(end) + 4 <= bar else end, width=bar, no_wrap=True)
    table.add_column("ms", justify="right")
    table.add_column("model", justify="right")
    table.add_column("decided", overflow="fold")
    scale = max((row.start + row.duration for row in picture.rows), default=0.0) or 1.0
    for row in picture.rows:
        again = f" (try {row.attempt})" if row.attempt > 1 else ""
        table.add_row(
            row.stage,
            _bar(row, scale, bar),
            f"{row.duration * 1000:.1f}",
            f"{row.compute * 1000:.1f}",
            Text(row.decision + again),
        )
    head = Text(f"turn {picture.turn_id}  {picture.ending}  {picture.total * 1000:.0f} ms")
    return Group(head, Text(f"asked: {shortened(picture.question, 90)}", style="dim"), table)


def _bar(row: WaterfallRow, scale: float, length: int) -> Text:
    start = min(length - 1, int(row.start / scale * length))
    width = max(1, min(length - start, round(row.duration / scale * length)))
    model = min(width, round(row.compute / scale * length))
    return Text.assemble(" " * start, ("█" * model, "green"), ("░" * (width - model), "cyan"))
