"""How much of a turn is bus and bookkeeping: turn time minus embedding and model compute (design section 9)."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from runtime.agents import turn_stages
from schemas.events import AnswerReady

PATH = tuple(stage.name for stage in turn_stages() if stage.position == "awaited")
"""The stages whose work the client waits for; catfish runs beside the negotiator, the write after the answer."""


@dataclass(frozen=True)
class TurnTiming:
    """One measured turn in seconds. ``own`` is each stage's time without compute; ``hops`` the way between them.

    A hop during which an embedding ran that the turn would wait for anyhow is compute, too (``StageTiming.ahead``).
    """

    total: float
    compute: float
    own: dict[str, float]
    hops: float

    @property
    def overhead(self) -> float:
        """Bus and bookkeeping."""
        return self.total - self.compute


def measure(event: AnswerReady, *, published_at: float, answered_at: float) -> TurnTiming:
    """Take one answered turn apart; times are Unix seconds of one machine."""
    stages = {timing.stage: timing for timing in event.timings}
    path = [stages[name] for name in PATH if name in stages]
    compute_by_stage = {timing.stage: timing.compute for timing in path}
    if "negotiator" in compute_by_stage and "catfish" in stages:
        # The negotiator waits for the dissent, so the catfish's model time is on its path.
        with_dissent = compute_by_stage["negotiator"] + stages["catfish"].compute
        compute_by_stage["negotiator"] = min(stages["negotiator"].duration, with_dissent)
    own = {timing.stage: timing.duration - compute_by_stage[timing.stage] for timing in path}
    total = answered_at - published_at
    ahead = max((timing.ahead for timing in stages.values()), default=0.0)  # for catfish and negotiator it is one pass
    compute = sum(compute_by_stage.values()) + ahead
    hops = total - sum(timing.duration for timing in path) - ahead
    return TurnTiming(total=total, compute=compute, own=own, hops=hops)


@dataclass(frozen=True)
class Share:
    """One part of the overhead: median and 95th percentile in milliseconds, share of the overhead's sum."""

    part: str
    p50: float
    p95: float
    share: float


def shares(turns: Sequence[TurnTiming]) -> list[Share]:
    """The overhead by part, the whole of it last. Needs at least two turns."""
    parts = {name: [turn.own.get(name, 0.0) for turn in turns] for name in PATH}
    parts["hops"] = [turn.hops for turn in turns]
    whole = [turn.overhead for turn in turns]
    parts["overhead"] = whole
    return [_share(name, values, sum(whole)) for name, values in parts.items()]


def _share(part: str, values: Sequence[float], whole: float) -> Share:
    milliseconds = sorted(value * 1000 for value in values)
    return Share(
        part=part,
        p50=statistics.median(milliseconds),
        p95=statistics.quantiles(milliseconds, n=20)[-1],
        share=sum(values) / whole if whole else 0.0,
    )
