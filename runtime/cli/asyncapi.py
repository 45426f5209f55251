"""``kiki asyncapi``: the wire contract as AsyncAPI 3.0 or as an HTML page, and what breaks an older contract."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from runtime.cli import command, out, settings_of
from schemas.asyncapi.breaking import breaking_changes
from schemas.asyncapi.document import document
from schemas.asyncapi.page import page
from schemas.errors import InvalidInput, KikiError

COMPONENT = Path("tests/contract/node_modules/@asyncapi/react-component")
"""Where 'make dev' installs the component in a checkout."""


def add_verbs(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(asyncapi)


@command
def asyncapi(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write here instead of printing.")] = None,
    html: Annotated[bool, typer.Option("--html", help="One HTML page instead of JSON.")] = False,
    component: Annotated[Path, typer.Option(help="Folder of npm's @asyncapi/react-component, for --html.")] = COMPONENT,
    against: Annotated[
        Path | None, typer.Option(help="List what breaks this older contract; exit 1 if the version is the same.")
    ] = None,
) -> None:
    """Write the contract: every subject, message and schema."""
    contract = document(prefix=settings_of().prefix)
    if against is not None:
        _compare(against, contract)
        return
    text = page(contract, component) if html else json.dumps(contract, indent=2, ensure_ascii=False) + "\n"
    if output is None:
        sys.stdout.write(text)
    else:
        output.write_text(text, encoding="utf-8")


def _compare(against: Path, contract: dict[str, Any]) -> None:
    try:
        older = json.loads(against.read_text(encoding="utf-8"))
        changes = breaking_changes(older, json.loads(json.dumps(contract)))
        version_raised = older["info"]["version"] != contract["info"]["version"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(
            f"{against} is no contract that 'kiki asyncapi' wrote: {error!r}.", param="against"
        ) from error
    for change in changes:
        out.print(change, markup=False, highlight=False, soft_wrap=True)
    if changes and not version_raised:
        raise KikiError(f"{len(changes)} breaking changes, and the version is the same: raise SCHEMA_VERSION.")
    out.print("nothing breaks" if not changes else "the version was raised", highlight=False)
