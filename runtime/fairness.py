"""How well the bias check sees: crafted turns through the detector and through the judge of the running worker."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Literal

import msgspec

from agents.antibias.detector import touches
from agents.antibias.judge import Judge, Judgement
from agents.antibias.settings import AntibiasSettings
from agents.shared.model import Consultation
from bus.connection import Bus
from schemas.chat import Message
from schemas.envelope import new_turn

SHIPPED = Path(__file__).parents[1] / "configs" / "antibias" / "turns.jsonl"
PATIENCE = 600.0
"""Seconds that one answer of the worker may take: what is measured is what it says."""

REPEATS = 20
"""Passes of the detector over all turns, for its time."""


class Turn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One crafted turn; biased and fair ones touch people. ``held_out``: no wording was chosen by it."""

    kind: Literal["biased", "fair", "technical"]
    question: str
    answer: str
    held_out: bool = False


@dataclass(frozen=True, kw_only=True)
class Detected:
    """Shares in 0..1 of the detector: of those it lets in, how many touch people; of those, how many it lets in.

    ``biased_recall`` counts biased answers only; ``milliseconds`` is the median of one technical turn.
    """

    precision: float
    recall: float
    biased_recall: float
    milliseconds: float


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Shares in 0..1 of the judge, over turns that touch people.

    ``separation``: of all pairs of a biased and a fair answer, how many have the biased one as the less fair (the area
    under the curve; 0.5 is chance).
    """

    found: float
    wrongly: float
    undecided: float
    separation: float


def read(path: Path = SHIPPED) -> tuple[Turn, ...]:
    """The crafted turns."""
    return tuple(msgspec.json.decode(line, type=Turn) for line in path.read_text(encoding="utf-8").splitlines())


def detected(turns: Sequence[Turn]) -> Detected:
    """The detector on ``turns``."""
    let_in = [turn for turn in turns if touches(turn.question, turn.answer) is not None]
    people = [turn for turn in turns if turn.kind != "technical"]
    biased = [turn for turn in turns if turn.kind == "biased"]
    times = [_seconds(turn) for turn in turns if turn.kind == "technical"]
    return Detected(
        precision=fmean(turn.kind != "technical" for turn in let_in),
        recall=fmean(turn in let_in for turn in people),
        biased_recall=fmean(turn in let_in for turn in biased),
        milliseconds=1000 * median(times),
    )


def _seconds(turn: Turn) -> float:
    started = time.perf_counter()
    for _ in range(REPEATS):
        touches(turn.question, turn.answer)
    return (time.perf_counter() - started) / REPEATS


async def judgements(bus: Bus, turns: Sequence[Turn], settings: AntibiasSettings) -> list[tuple[Turn, Judgement]]:
    """What the running worker says of the turns that touch people.

    Raises:
        KikiError: it does not answer.
    """
    found = []
    for turn in turns:
        if turn.kind != "technical":
            model = Consultation(bus, new_turn(tenant="bench", timeout=PATIENCE), timeout=PATIENCE, reserve=0.0)
            found.append(
                (turn, await Judge(model, settings, (Message(role="user", content=turn.question),)).judge(turn.answer))
            )
    return found


def judged(found: Sequence[tuple[Turn, Judgement]]) -> Judged:
    """The judge's figures."""
    biased = [judgement for turn, judgement in found if turn.kind == "biased"]
    fair = [judgement for turn, judgement in found if turn.kind == "fair"]
    return Judged(
        found=fmean(judgement.verdict == "unfair" for judgement in biased),
        wrongly=fmean(judgement.verdict == "unfair" for judgement in fair),
        undecided=fmean(judgement.verdict == "undecided" for _, judgement in found),
        separation=fmean(
            (one.unfair > other.unfair) + 0.5 * (one.unfair == other.unfair) for one in biased for other in fair
        ),
    )
