"""``kiki validate``: whether configs agree with each other and adapters are usable; one line an error."""

from importlib.resources import files
from pathlib import Path
from typing import Annotated, Literal

import typer

from runtime.cli import command, out
from runtime.training.validation import CHECKS, check_adapters
from schemas.errors import InvalidInput

What = Literal["domains", "recipes", "curriculum", "adapters"]


def add_verbs(app: typer.Typer) -> None:
    """Add ``kiki validate``."""
    app.command()(validate)


@command
def validate(
    what: Annotated[What | None, typer.Argument(help="One check; none: domains, recipes and curriculum.")] = None,
    folder: Annotated[Path | None, typer.Argument(help="With 'adapters': the folder of adapters.")] = None,
    configs: Annotated[Path | None, typer.Option(help="Another folder laid out as configs.")] = None,
) -> None:
    """Check domains, recipes and curriculum against each other, or the adapters of a folder.

    All errors are printed, one a line; the exit code is 1 when there is one.
    """
    if (what == "adapters") != (folder is not None):
        raise InvalidInput("'kiki validate adapters DIR' names a folder, the other checks none.", param="folder")
    if folder is not None:
        faults = {"adapters": check_adapters(folder)}
    else:
        tree = configs or Path(str(files("configs")))
        faults = {name: check(tree) for name, check in CHECKS.items() if what in (None, name)}
    for name, lines in faults.items():
        for line in lines:
            out.print(f"{name}: {line}", highlight=False, soft_wrap=True)
    count = sum(map(len, faults.values()))
    if count:
        out.print(
            f"{count} {'error' if count == 1 else 'errors'} in {', '.join(name for name in faults if faults[name])}"
        )
        raise typer.Exit(1)
    out.print(f"{', '.join(faults)}: no errors")
