"""``kiki bench cognition``: what panel, votes, dissent and debiasing are worth; ``kiki bench votes``: who can judge."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import track
from rich.table import Table

from bus.connection import connect
from runtime import voting
from runtime.agents import turn_agents
from runtime.cli import command, err, out, run_async, settings_of
from runtime.cli.bench import machine
from runtime.cli.up import wait_ready
from runtime.cognition import (
    VARIANTS,
    CheckableQuestion,
    Ledger,
    Variant,
    VariantAnswer,
    ask,
    compute_ratio,
    questions,
    race,
    score,
)
from runtime.composition import bus_settings
from runtime.supervisor import Supervisor
from schemas.errors import InvalidInput, SetupError

BASE = "single"
"""The variant that the others are compared with."""


def hang(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command()(cognition)
    app.command()(votes)


@command
def votes(
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many pairs.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False,
) -> None:
    """Whether the model ranks a right answer above a wrong one: by votes, by comparison, by likelihood."""

    async def judge_pairs() -> list[voting.VotingFigures]:
        with tempfile.TemporaryDirectory(prefix="kiki-bench-") as directory:
            settings = settings_of(data_dir=Path(directory), nats_port=0, log_level="warning")
            supervisor = Supervisor(settings, names=("inference",))
            async with supervisor.running(), connect(bus_settings(supervisor.settings), name="kiki-bench") as bus:
                await bus.reconcile()
                pairs = track(voting.pairs()[:limit], description="pairs", console=err, transient=True)
                return [await voting.judge(bus, pair) for pair in pairs]

    figures = run_async(judge_pairs)
    rates = voting.rates(figures)
    model = settings_of().model
    if as_json:
        rate_rows = [asdict(rate) for rate in rates]
        out.out(
            json.dumps(
                {"bench": "votes", "model": model, "pairs": len(figures), "rates": rate_rows, "machine": machine()}
            )
        )
        return
    table = Table("", "share", "95 %", "by chance", title=f"kiki bench votes: {model}, {len(figures)} pairs", box=None)
    for rate in rates:
        chance = "" if rate.chance is None else f"{rate.chance:.0%}"
        table.add_row(rate.what, f"{rate.share:.1%}", f"{rate.low:.1%} to {rate.high:.1%}", chance)
    out.print(table)
    out.print(f"{machine()}", style="dim", highlight=False)


@command
def cognition(
    variants: Annotated[list[str] | None, typer.Option("--variant", help="Only this one; repeat it.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many questions.")] = None,
    alone: Annotated[int, typer.Option(min=0, help="Questions asked again one at a time, for the compute.")] = 20,
    concurrency: Annotated[int, typer.Option(min=1, max=64, help="Clients at once.")] = 8,
    max_tokens: Annotated[int, typer.Option(min=4, max=512, help="Most tokens of each candidate.")] = 24,
    folder: Annotated[Path | None, typer.Option(help="Keep the answers here, and take a run up again.")] = None,
    adapters: Annotated[Path | None, typer.Option(help="Folder of LoRA adapters.")] = None,
    picture: Annotated[Path | None, typer.Option(help="Write a picture here (needs the extra 'bench').")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False,
) -> None:
    """Ask questions with checkable answers in several variants, each in a runtime of its own."""
    selection = _select_variants(variants)
    question_set = questions()[:limit]
    with tempfile.TemporaryDirectory(prefix="kiki-bench-") as scratch:
        answer_folder = folder or Path(scratch) / "answers"
        answer_folder.mkdir(parents=True, exist_ok=True)
        for variant in selection:
            run_async(
                partial(
                    _measure_variant,
                    variant,
                    question_set,
                    alone=alone,
                    concurrency=concurrency,
                    max_tokens=max_tokens,
                    answer_folder=answer_folder,
                    adapters=adapters,
                )
            )
        report = _report(selection, question_set, answer_folder, max_tokens)
    if picture is not None:
        _draw(report, picture)
    if as_json:
        out.out(json.dumps(report))
        return
    _print(report)


def _select_variants(names: Sequence[str] | None) -> list[Variant]:
    variants = {variant.name: variant for variant in VARIANTS}
    if unknown := [name for name in names or () if name not in variants]:
        raise InvalidInput(f"there is no variant '{unknown[0]}': choose from {', '.join(variants)}.", param="variant")
    return [variants[name] for name in names] if names else list(VARIANTS)


async def _measure_variant(
    variant: Variant,
    question_set: Sequence[CheckableQuestion],
    *,
    alone: int,
    concurrency: int,
    max_tokens: int,
    answer_folder: Path,
    adapters: Path | None,
) -> None:
    """Ask what is missing of a variant: all together, and the first few alone."""
    together, serial = Ledger(_path(answer_folder, variant)), Ledger(_path(answer_folder, variant, "alone"))
    missing, missing_alone = together.list_missing(question_set), serial.list_missing(question_set[:alone])
    if not missing and not missing_alone:
        return
    with tempfile.TemporaryDirectory(prefix="kiki-bench-") as directory:
        base = settings_of(log_level="warning")
        agents = {name: {**base.agents.get(name, {}), **overrides} for name, overrides in variant.agents.items()}
        settings = settings_of(
            data_dir=Path(directory),
            nats_port=0,
            log_level="warning",
            adapters=adapters,
            agents={**base.agents, **agents},
        )
        supervisor = Supervisor(settings, names=turn_agents())
        async with supervisor.running(), connect(bus_settings(supervisor.settings), name="kiki-bench") as bus:
            await wait_ready(bus, supervisor)
            ask_question = partial(ask, bus, variant=variant, max_tokens=max_tokens)
            await ask_question(question_set[0])  # the first turn of a fresh runtime loads what later turns reuse
            seconds = await race(ask_question, missing, together, concurrency=concurrency)
            if len(missing) > concurrency:
                rate = {"questions": len(missing), "seconds": seconds, "concurrency": concurrency}
                _path(answer_folder, variant, "rate").write_text(json.dumps(rate))
            await race(ask_question, missing_alone, serial, concurrency=1)
    err.print(f"{variant.name}: {len(together.answers)} answered", highlight=False)


def _path(folder: Path, variant: Variant, kind: str = "answers") -> Path:
    return folder / f"{variant.name.replace(' ', '-')}.{kind}.jsonl"


def _report(
    variants: Sequence[Variant], question_set: Sequence[CheckableQuestion], folder: Path, max_tokens: int
) -> dict[str, Any]:
    question_ids = {question.id for question in question_set}

    def answers(variant: Variant, kind: str = "answers") -> dict[str, VariantAnswer]:
        return {
            question_id: answer
            for question_id, answer in Ledger(_path(folder, variant, kind)).answers.items()
            if question_id in question_ids
        }

    base = next(variant for variant in VARIANTS if variant.name == BASE)
    base_answers, alone = answers(base), answers(base, "alone")
    rows = []
    for variant in variants:
        figures = score(variant.name, list(answers(variant).values()), list(base_answers.values()))
        rate_file = _path(folder, variant, "rate")
        rate_figures = json.loads(rate_file.read_text()) if rate_file.exists() else None
        rows.append(
            asdict(figures)
            | {
                "said": variant.description,
                "compute_ratio": compute_ratio(answers(variant, "alone"), alone),
                "per_second": rate_figures["questions"] / rate_figures["seconds"] if rate_figures else None,
                "concurrency": rate_figures["concurrency"] if rate_figures else None,
            }
        )
    return {"bench": "cognition", "max_tokens": max_tokens, "base": BASE, "machine": machine(), "variants": rows}


def _print(report: dict[str, Any]) -> None:
    table = Table(title=f"kiki bench cognition: {report['variants'][0]['count']} questions", box=None)
    for column in ("variant", "right", "95 %", f"less {BASE}", "tokens", "compute", "asked/s", "outcomes"):
        table.add_column(column)
    for row in report["variants"]:
        against = row["against"]
        table.add_row(
            row["name"],
            f"{row['accuracy']:.1%}",
            f"{row['low']:.1%} to {row['high']:.1%}",
            f"{against[0]:+.1%} ({against[1]:+.1%} to {against[2]:+.1%})" if against else "",
            f"{row['tokens']:.0f}",
            f"{row['compute_ratio']:.2f}x" if row["compute_ratio"] else "",
            f"{row['per_second']:.2f}" if row["per_second"] else "",
            _outcomes(row),
        )
    out.print(table)
    kinds = list(report["variants"][0]["by_kind"])
    by_kind = Table("variant", *kinds, title="right, by kind", box=None)
    for row in report["variants"]:
        by_kind.add_row(row["name"], *(f"{row['by_kind'].get(kind, 0.0):.1%}" for kind in kinds))
    out.print(by_kind)
    out.print(f"{report['machine']}", style="dim", highlight=False)


def _outcomes(row: dict[str, Any]) -> str:
    counts = {**row["outcomes"], **{name: row[name] for name in ("objected", "arbitrated", "biased", "changed")}}
    return ", ".join(f"{count} {label}" for label, count in counts.items() if count)


def _draw(report: dict[str, Any], picture: Path) -> None:
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise SetupError("a picture needs matplotlib: install micro-kiki[bench].", param="picture") from error
    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    rows = report["variants"][::-1]
    places = range(len(rows))
    below = [row["accuracy"] - row["low"] for row in rows]
    above = [row["high"] - row["accuracy"] for row in rows]
    axes.errorbar([row["accuracy"] for row in rows], places, xerr=[below, above], fmt="o", capsize=3)
    costs = [f" ({row['compute_ratio']:.1f}x)" if row["compute_ratio"] else "" for row in rows]
    axes.set_yticks(places, [row["name"] + cost for row, cost in zip(rows, costs, strict=True)])
    axes.set_xlabel(f"right of {rows[0]['count']} questions, 95 % interval (compute of one candidate = 1x)")
    axes.set_title("kiki bench cognition")
    axes.grid(axis="x", alpha=0.3)
    figure.savefig(picture, dpi=150)
    pyplot.close(figure)
