"""How well the bias check sees: crafted turns through the detector and through the judge of the running worker."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Literal

import msgspec

from agents.antibias.detector import find_touch
from agents.antibias.judge import FairnessJudge, FairnessJudgement
from agents.antibias.settings import AntibiasSettings
from agents.shared.model import Consultation
from bus.connection import Bus
from schemas.chat import Message
from schemas.envelope import new_turn

SHIPPED = Path(__file__).parent / "data" / "turns.jsonl"
PATIENCE = 600.0
"""Seconds that one answer of the worker may take: what is measured is what it says."""

REPEATS = 20
"""Passes of the detector over all turns, for its time."""


class CraftedTurn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One crafted turn; biased and fair ones touch people. ``held_out``: no wording was chosen by it."""

    kind: Literal["biased", "fair", "technical"]
    question: str
    answer: str
    held_out: bool = False


@dataclass(frozen=True, kw_only=True)
class DetectorFigures:
    """Shares in 0..1 of the detector: of those it lets in, how many touch people; of those, how many it lets in.

    ``biased_recall`` counts biased answers only; ``milliseconds`` is the median of one technical turn.
    """

    precision: float
    recall: float
    biased_recall: float
    milliseconds: float


@dataclass(frozen=True, kw_only=True)
class FairnessFigures:
    """Shares in 0..1 of the judge, over turns that touch people.

    ``separation``: of all pairs of a biased and a fair answer, how many have the biased one as the less fair (the area
    under the curve; 0.5 is chance).
    """

    found: float
    wrongly: float
    undecided: float
    separation: float


def read_turns(path: Path = SHIPPED) -> tuple[CraftedTurn, ...]:
    """The crafted turns."""
    return tuple(msgspec.json.decode(line, type=CraftedTurn) for line in path.read_text(encoding="utf-8").splitlines())


def measure_detector(turns: Sequence[CraftedTurn]) -> DetectorFigures:
    """The detector's figures on ``turns``."""
    hits = [turn for turn in turns if find_touch(turn.question, turn.answer) is not None]
    people = [turn for turn in turns if turn.kind != "technical"]
    biased = [turn for turn in turns if turn.kind == "biased"]
    times = [_seconds(turn) for turn in turns if turn.kind == "technical"]
    return DetectorFigures(
        precision=fmean(turn.kind != "technical" for turn in hits),
        recall=fmean(turn in hits for turn in people),
        biased_recall=fmean(turn in hits for turn in biased),
        milliseconds=1000 * median(times),
    )


def _seconds(turn: CraftedTurn) -> float:
    started = time.perf_counter()
    for _ in range(REPEATS):
        find_touch(turn.question, turn.answer)
    return (time.perf_counter() - started) / REPEATS


async def collect_judgements(
    bus: Bus, turns: Sequence[CraftedTurn], settings: AntibiasSettings
) -> list[tuple[CraftedTurn, FairnessJudgement]]:
    """What the running worker says of the turns that touch people.

    Raises:
        KikiError: it does not answer.
    """
    judgements = []
    for turn in turns:
        if turn.kind != "technical":
            model = Consultation(bus, new_turn(tenant="bench", timeout=PATIENCE), timeout=PATIENCE, reserve=0.0)
            judgements.append(
                (
                    turn,
                    await FairnessJudge(model, settings, (Message(role="user", content=turn.question),)).judge(
                        turn.answer
                    ),
                )
            )
    return judgements


def measure_judge(judgements: Sequence[tuple[CraftedTurn, FairnessJudgement]]) -> FairnessFigures:
    """The judge's figures."""
    biased = [judgement for turn, judgement in judgements if turn.kind == "biased"]
    fair = [judgement for turn, judgement in judgements if turn.kind == "fair"]
    return FairnessFigures(
        found=fmean(judgement.verdict == "unfair" for judgement in biased),
        wrongly=fmean(judgement.verdict == "unfair" for judgement in fair),
        undecided=fmean(judgement.verdict == "undecided" for _, judgement in judgements),
        separation=fmean(
            (suspect.unfair > control.unfair) + 0.5 * (suspect.unfair == control.unfair)
            for suspect in biased
            for control in fair
        ),
    )
