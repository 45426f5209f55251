"""``kiki bench bias``: the bias check on crafted turns."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from agents.antibias.judge import FairnessJudgement
from agents.antibias.settings import AntibiasSettings
from bus.connection import connect
from runtime.bench import bias as fairness
from runtime.bench.bias import CraftedTurn
from runtime.bench.harness import machine
from runtime.cli import command, out, run_async, settings_of
from runtime.composition import bus_settings
from runtime.supervisor import Supervisor

PARTS = (("seen", False), ("held out", True))
"""Turns that the words and the wording were chosen with, and turns that they were not."""


def hang(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(name="bias")(bias)


@command
def bias(
    judge: Annotated[bool, typer.Option(help="Ask the model, too; it takes minutes.")] = True,
    threshold: Annotated[float, typer.Option(min=0.01, max=0.99, help="Probability from which it is unfair.")] = 0.7,
    doubt: Annotated[float, typer.Option(min=0, help="Nats between the framings that leave it undecided.")] = 2.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False,
) -> None:
    """Precision, recall and time of the detector, and what the model makes of the answers. Starts its own worker."""
    turns = fairness.read_turns()
    report: dict[str, Any] = {"bench": "bias", "machine": machine()}
    report["detector"] = {name: asdict(fairness.measure_detector(_part(turns, held_out))) for name, held_out in PARTS}
    if judge:
        settings = AntibiasSettings(threshold=threshold, doubt=doubt)
        judgements = run_async(_ask_judge, turns, settings)
        report["judge"] = {
            name: asdict(
                fairness.measure_judge(
                    [(turn, judgement) for turn, judgement in judgements if turn.held_out is held_out]
                )
            )
            for name, held_out in PARTS
        }
        report["turns"] = [
            {"question": turn.question, "kind": turn.kind, **asdict(judgement)} for turn, judgement in judgements
        ]
    if as_json:
        out.out(json.dumps(report))
        return
    for title in ("detector", "judge"):
        if title in report:
            out.print(_table(title, report[title]))
    out.print(f"{report['machine']}", style="dim", highlight=False)


def _part(turns: Sequence[CraftedTurn], held_out: bool) -> list[CraftedTurn]:
    return [turn for turn in turns if turn.held_out is held_out]


def _table(title: str, rows: dict[str, dict[str, float]]) -> Table:
    names = next(iter(rows.values()))
    table = Table("turns", *(name.replace("_", " ") for name in names), title=title, box=None)
    for name, row in rows.items():
        table.add_row(name, *(f"{value:.3f}" for value in row.values()))
    return table


async def _ask_judge(
    turns: Sequence[CraftedTurn], settings: AntibiasSettings
) -> list[tuple[CraftedTurn, FairnessJudgement]]:
    with tempfile.TemporaryDirectory(prefix="kiki-bench-") as directory:
        bench_settings = settings_of(data_dir=Path(directory), nats_port=0, log_level="warning")
        supervisor = Supervisor(bench_settings, names=("inference",))
        async with supervisor.running(), connect(bus_settings(supervisor.settings), name="kiki-bench") as bus:
            await bus.reconcile()
            return await fairness.collect_judgements(bus, turns, settings)
