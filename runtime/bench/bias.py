"""``kiki bench bias``: how well the bias check's detector and judge find bias, on crafted turns."""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean, median
from typing import Annotated, Any, Literal

import msgspec
import typer
from rich.table import Table

from agents.antibias.detector import find_touch
from agents.antibias.judge import FairnessJudge, FairnessJudgement
from agents.antibias.settings import AntibiasSettings
from agents.shared.model import Consultation
from bus.connection import Bus
from runtime.bench.harness import (
    BenchReport,
    JsonOption,
    PictureOption,
    fresh_runtime,
    progress_bar,
    publish_report,
    read_data,
)
from runtime.bench.plots import bar_chart
from runtime.cli import command, run_async
from schemas.chat import Message
from schemas.envelope import new_turn

PARTS = (("seen", False), ("held out", True))
"""``seen``: turns by which the detector's words and the judge's wording were chosen; ``held out``: all others."""

ANSWER_SECONDS = 600.0
"""Seconds that one answer of the worker may take: its verdict is measured, not its time."""

REPEATS = 20
"""Passes of the detector over all turns, for its time."""


@command
def bias(
    judge: Annotated[bool, typer.Option(help="Ask the model, too; it takes minutes.")] = True,
    threshold: Annotated[float, typer.Option(min=0.01, max=0.99, help="Probability from which it is unfair.")] = 0.7,
    doubt: Annotated[float, typer.Option(min=0, help="Nats between the framings that leave it undecided.")] = 2.0,
    picture: PictureOption = None,
    as_json: JsonOption = False,
) -> None:
    """Precision, recall and time of the detector, and what the model makes of the answers. Starts its own worker."""
    turns = read_turns()
    detector = {
        name: measure_detector([turn for turn in turns if turn.held_out is held_out]) for name, held_out in PARTS
    }
    settings = AntibiasSettings(threshold=threshold, doubt=doubt)
    judgements = run_async(_ask_judge, turns, settings) if judge else []
    publish_report(_report(detector, judgements), as_json=as_json, picture=picture)


class CraftedTurn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One crafted turn; biased and fair ones are about people. ``held_out``: no wording was chosen by it."""

    kind: Literal["biased", "fair", "technical"]
    question: str
    answer: str
    held_out: bool = False


@dataclass(frozen=True, kw_only=True)
class DetectorFigures:
    """How well the detector finds the turns that the judge should see, in shares of 0..1.

    Attributes:
        precision: of the turns that it passes on to the judge, those that are about people.
        recall: of the turns about people, those that it passes on.
        biased_recall: of the turns with a biased answer, those that it passes on.
        milliseconds: median time of one technical turn.
    """

    precision: float
    recall: float
    biased_recall: float
    milliseconds: float


@dataclass(frozen=True, kw_only=True)
class FairnessFigures:
    """How well the judge tells biased answers from fair ones, in shares of 0..1.

    Attributes:
        found: of the biased answers, those that it calls unfair.
        wrongly: of the fair answers, those that it calls unfair.
        undecided: of all answers, those without a verdict.
        separation: of all pairs of a biased and a fair answer, those in which the biased one gets the higher
            probability of being unfair (the area under the curve; 0.5 is chance).
    """

    found: float
    wrongly: float
    undecided: float
    separation: float


def read_turns() -> tuple[CraftedTurn, ...]:
    """The crafted turns, ``data/turns.jsonl``."""
    return read_data("turns", CraftedTurn)


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
    bus: Bus, turns: Sequence[CraftedTurn], settings: AntibiasSettings, *, tick: Callable[[], None] = lambda: None
) -> list[tuple[CraftedTurn, FairnessJudgement]]:
    """The running worker's judgements of the turns that are about people.

    Raises:
        KikiError: the worker does not answer.
    """
    judgements = []
    for turn in turns:
        tick()
        if turn.kind != "technical":
            model = Consultation(
                bus, new_turn(tenant="bench", timeout=ANSWER_SECONDS), timeout=ANSWER_SECONDS, reserve=0.0
            )
            judge = FairnessJudge(model, settings, (Message(role="user", content=turn.question),))
            judgements.append((turn, await judge.judge(turn.answer)))
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


async def _ask_judge(
    turns: Sequence[CraftedTurn], settings: AntibiasSettings
) -> list[tuple[CraftedTurn, FairnessJudgement]]:
    async with fresh_runtime("inference") as bus:
        with progress_bar("turns", total=len(turns)) as tick:
            return await collect_judgements(bus, turns, settings, tick=tick)


def _report(
    detector: dict[str, DetectorFigures], judgements: Sequence[tuple[CraftedTurn, FairnessJudgement]]
) -> BenchReport:
    """``judgements`` are empty when the judge was not asked."""
    fields: dict[str, Any] = {"detector": {name: asdict(figures) for name, figures in detector.items()}}
    if judgements:
        fields["judge"] = {
            name: asdict(
                measure_judge([(turn, judgement) for turn, judgement in judgements if turn.held_out is held_out])
            )
            for name, held_out in PARTS
        }
        fields["turns"] = [
            {"question": turn.question, "kind": turn.kind, **asdict(judgement)} for turn, judgement in judgements
        ]
    parts = [name for name in ("detector", "judge") if name in fields]
    shares = [(part, figure) for part in parts for figure in fields[part]["seen"] if figure != "milliseconds"]
    return BenchReport(
        bench="bias",
        fields=fields,
        tables=[_table(part, fields[part]) for part in parts],
        chart=bar_chart(
            [f"{part}\n{figure.replace('_', ' ')}" for part, figure in shares],
            {name: [fields[part][name][figure] for part, figure in shares] for name, _ in PARTS},
            unit="share",
            decimals=2,
        ),
    )


def _table(title: str, rows: dict[str, dict[str, float]]) -> Table:
    names = next(iter(rows.values()))
    table = Table("turns", *(name.replace("_", " ") for name in names), title=title, box=None)
    for name, row in rows.items():
        table.add_row(name, *(f"{value:.3f}" for value in row.values()))
    return table
