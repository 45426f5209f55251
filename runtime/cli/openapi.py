"""``kiki openapi``: the HTTP interface as an OpenAPI document."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from runtime.cli import command
from runtime.facade.app import encode_interface


def add_verbs(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(openapi)


@command
def openapi(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write here instead of printing.")] = None,
) -> None:
    """Write the HTTP interface: every path, body, reply and error, as OpenAPI 3.1."""
    data = encode_interface()
    if output is None:
        sys.stdout.write(data.decode())
    else:
        output.write_bytes(data)
