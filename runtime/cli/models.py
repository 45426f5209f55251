"""``kiki models pull | ls | verify``: the models on this machine."""

from typing import Annotated

import typer
from rich.table import Table

from runtime import models
from runtime.cli import command, out, settings_of
from runtime.exits import FAILED_EXIT

app = typer.Typer(help="Models: fetch, list, check.", no_args_is_help=True)

NamesArgument = Annotated[list[str] | None, typer.Argument(help="Names, Hugging Face ids or paths.")]


@app.command()
@command
def pull(names: NamesArgument = None) -> None:
    """Fetch and prepare models (the configured chat model and embedder when none is named)."""
    settings = settings_of()
    with models.show_progress() as progress:
        entries = models.pull(names or (settings.model, settings.embedder), progress=progress)
    _print_listings(entries)


@app.command(name="ls")
@command
def list_models() -> None:
    """List the models of the catalog and of the cache."""
    _print_listings(models.list_models())


@app.command()
@command
def verify(names: NamesArgument = None) -> None:
    """Read every file and compare its sha256; the next pull builds a broken model again."""
    with models.show_progress() as progress:
        results = models.verify(names, progress=progress)
    for result in results:
        out.print(f"{result.name}: {'ok' if result.ok else '; '.join(result.problems)}", markup=False, highlight=False)
    if not results:
        out.print("nothing to verify: the cache is empty")
    if not all(result.ok for result in results):
        raise typer.Exit(FAILED_EXIT)


def _print_listings(lines: list[models.ModelListing]) -> None:
    table = Table("name", "state", "MB", "source", box=None)
    for line in lines:
        table.add_row(line.name, line.state, f"{line.size / 1e6:.0f}", line.source)
    out.print(table)
