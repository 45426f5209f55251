"""``kiki asyncapi``: the wire contract as AsyncAPI 3.0."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from runtime.cli import command, settings_of
from schemas.contract import document


def hang(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(asyncapi)


@command
def asyncapi(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write here instead of printing.")] = None,
) -> None:
    """Write the contract: every subject, message and schema."""
    text = json.dumps(document(prefix=settings_of().prefix), indent=2, ensure_ascii=False) + "\n"
    if output is None:
        sys.stdout.write(text)
    else:
        output.write_text(text, encoding="utf-8")
