"""``kiki soak``: a runtime of its own under faults, judged by what its clients saw and what it recorded."""

import random
import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from runtime import models
from runtime.cli import err, out, run_async, settings_of
from runtime.cli.gates import GateCommand, verdict_command
from runtime.soak import isolation, nemesis
from runtime.soak.chaos import ChaosVerdict, run_chaos
from schemas.errors import InvalidInput, SetupError

app = typer.Typer(help="A runtime of its own under faults, judged by its record.", no_args_is_help=True)


@app.callback()
def soak() -> None:
    """A callback without options: it makes Typer expect a verb."""


@app.command(cls=GateCommand)
@verdict_command
def chaos(
    minutes: Annotated[float, typer.Option(min=0.1, help="How long to break it.")] = 5.0,
    seed: Annotated[int | None, typer.Option(help="Of an earlier run, to draw the same faults.")] = None,
    only: Annotated[str | None, typer.Option(help=f"Faults, with commas: {', '.join(nemesis.FAULTS)}.")] = None,
    clients: Annotated[int, typer.Option(min=1, max=256, help="How many ask at once.")] = 8,
    directory: Annotated[Path | None, typer.Option(help="An empty folder for the runtime and the history.")] = None,
) -> int:
    """Ask a scripted runtime without end, kill, stop, cut off and fill up what it consists of, and judge its history.

    As root on Linux it runs in namespaces of its own. The exit code is 1 when a promise was broken, 64 when no
    verdict was reached.
    """
    chosen = _choose_faults(only)
    if not isolation.is_isolated():
        hindrance = isolation.find_hindrance()
        if not hindrance:
            isolation.enter()
        if skipped := sorted(nemesis.NEED_NAMESPACES & set(chosen)):
            err.print(f"skipped: {', '.join(skipped)} ({hindrance})", style="yellow", highlight=False)
            chosen = [name for name in chosen if name not in skipped]
    embedder = settings_of().embedder
    if models.find_ready(embedder) is None:
        raise SetupError(f"the embedder {embedder} is not here: 'kiki models pull {embedder}' fetches it.")
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    place = directory or Path(tempfile.mkdtemp(prefix="kiki-soak-"))
    place.mkdir(parents=True, exist_ok=True)
    if any(place.iterdir()):
        raise InvalidInput(f"{place} is not empty: name a new folder.", param="directory")
    if not chosen:
        raise SetupError("none of these faults can be used here.", param="only")
    out.print(f"seed {seed}, history and logs in {place}", highlight=False)
    return run_async(_run, place, minutes * 60, seed, chosen, clients)


async def _run(place: Path, seconds: float, seed: int, faults: list[str], clients: int) -> int:
    def say(line: str) -> None:
        out.print(line, markup=False, highlight=False, soft_wrap=True)

    verdict = await run_chaos(place, seconds=seconds, seed=seed, faults=faults, clients=clients, say=say)
    _show(verdict)
    return int(bool(verdict.violations))


def _show(verdict: ChaosVerdict) -> None:
    table = Table("figure", "value", title=f"kiki soak chaos, seed {verdict.seed}")
    for name, value in verdict.figures.items():
        table.add_row(name, str(value))
    out.print(table)
    for violation in verdict.violations:
        out.print(violation, style="red", markup=False, highlight=False, soft_wrap=True)
    out.print(f"{len(verdict.violations)} violations", style="bold", highlight=False)


def _choose_faults(only: str | None) -> list[str]:
    if only is None:
        return list(nemesis.FAULTS)
    chosen = [name.strip() for name in only.split(",")]
    unknown = [name for name in chosen if name not in nemesis.FAULTS]
    if unknown:
        raise InvalidInput(f"there is no fault {unknown[0]!r}: choose of {', '.join(nemesis.FAULTS)}.", param="only")
    return chosen
