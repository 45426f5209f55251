"""``kiki bench cognition``: what panel, votes, dissent and debiasing are worth. Each variant has its own runtime."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from runtime.bench.harness import BenchReport, JsonOption, PictureOption, fresh_folder, fresh_runtime, publish_report
from runtime.bench.plots import IntervalBar, interval_chart
from runtime.bench.questions import CheckableQuestion, questions
from runtime.bench.variants import VARIANTS, Ledger, Variant, VariantAnswer, ask, compute_ratio, race, score
from runtime.cli import command, err, run_async, settings_of
from schemas.errors import InvalidInput

BASE = "single"
"""The variant that the others are compared with."""


@command
def cognition(
    variants: Annotated[list[str] | None, typer.Option("--variant", help="Only this one; repeat it.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many questions.")] = None,
    alone: Annotated[int, typer.Option(min=0, help="Questions asked again one at a time, for the compute.")] = 20,
    concurrency: Annotated[int, typer.Option(min=1, max=64, help="Clients at once.")] = 8,
    max_tokens: Annotated[int, typer.Option(min=4, max=512, help="Most tokens of each candidate.")] = 24,
    folder: Annotated[Path | None, typer.Option(help="Keep the answers here, and take a run up again.")] = None,
    adapters: Annotated[Path | None, typer.Option(help="Folder of LoRA adapters.")] = None,
    picture: PictureOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask questions with checkable answers in several variants, each in a runtime of its own."""
    selection = _select_variants(variants)
    question_set = questions()[:limit]
    with fresh_folder() as scratch:
        answer_folder = folder or scratch
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
        rows = _rows(selection, question_set, answer_folder)
    publish_report(_report(rows, max_tokens), as_json=as_json, picture=picture)


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
    """Ask a variant what it has not answered yet: all questions concurrently, and the first ``alone`` one by one."""
    together, serial = Ledger(_path(answer_folder, variant)), Ledger(_path(answer_folder, variant, "alone"))
    missing, missing_alone = together.list_missing(question_set), serial.list_missing(question_set[:alone])
    if not missing and not missing_alone:
        return
    settings = settings_of(log_level="warning")
    agents = {name: {**settings.agents.get(name, {}), **overrides} for name, overrides in variant.agents.items()}
    async with fresh_runtime(adapters=adapters, agents={**settings.agents, **agents}) as bus:
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


def _rows(variants: Sequence[Variant], question_set: Sequence[CheckableQuestion], folder: Path) -> list[dict[str, Any]]:
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
    return rows


def _report(rows: list[dict[str, Any]], max_tokens: int) -> BenchReport:
    bars = [
        IntervalBar(
            label=row["name"] + (f" ({row['compute_ratio']:.1f}x)" if row["compute_ratio"] else ""),
            middle=row["accuracy"],
            low=row["low"],
            high=row["high"],
        )
        for row in rows
    ]
    unit = f"right of {rows[0]['count']} questions, 95 % interval (compute of one candidate = 1x)"
    return BenchReport(
        bench="cognition",
        fields={"max_tokens": max_tokens, "base": BASE, "variants": rows},
        tables=[_whole_table(rows), _kind_table(rows)],
        chart=interval_chart(bars, unit=unit),
    )


def _whole_table(rows: list[dict[str, Any]]) -> Table:
    columns = ("variant", "right", "95 %", f"less {BASE}", "tokens", "compute", "asked/s", "outcomes")
    table = Table(*columns, title=f"kiki bench cognition: {rows[0]['count']} questions", box=None)
    for row in rows:
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
    return table


def _kind_table(rows: list[dict[str, Any]]) -> Table:
    kinds = list(rows[0]["by_kind"])
    table = Table("variant", *kinds, title="right, by kind", box=None)
    for row in rows:
        table.add_row(row["name"], *(f"{row['by_kind'].get(kind, 0.0):.1%}" for kind in kinds))
    return table


def _outcomes(row: dict[str, Any]) -> str:
    counts = {**row["outcomes"], **{name: row[name] for name in ("objected", "arbitrated", "biased", "changed")}}
    return ", ".join(f"{count} {label}" for label, count in counts.items() if count)
