"""``kiki models pull | ls | verify | rm``: the models on this machine."""

from typing import Annotated

import typer
from rich.table import Table

from runtime import models
from runtime.cli import command, err, out, settings_of
from runtime.exits import FAILED_EXIT

app = typer.Typer(help="Models: fetch, list, check, delete.", no_args_is_help=True)

NamesArgument = Annotated[list[str] | None, typer.Argument(help="Names, Hugging Face ids, directories or GGUF files.")]


@app.command()
@command
def pull(names: NamesArgument = None) -> None:
    """Fetch and prepare models (the configured chat model and embedder when none is named)."""
    settings = settings_of()
    wanted = names or (settings.model, settings.embedder)
    for line in models.plan_downloads(wanted):
        err.print(line, markup=False, highlight=False, soft_wrap=True)
    with models.show_progress(console=err) as progress:
        entries = models.pull(wanted, progress=progress)
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


@app.command(name="rm")
@command
def remove(names: Annotated[list[str], typer.Argument(help="Names as 'kiki models ls' shows them.")]) -> None:
    """Delete models from the cache, with what interrupted downloads of them left."""
    for removal in models.remove(names):
        out.print(f"{removal.name}: {removal.size / 1e6:.0f} MB freed", markup=False, highlight=False)


def _print_listings(lines: list[models.ModelListing]) -> None:
    table = Table("name", "state", "MB", "source", box=None)
    for line in lines:
        size = f"{line.size / 1e6:.0f}{' to fetch' if line.state == 'absent' else ''}"
        table.add_row(line.name, line.state, size, line.source)
    out.print(table)
