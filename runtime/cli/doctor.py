"""``kiki doctor``: what is wrong with this machine, and how to mend it."""

import typer
from rich.text import Text

from runtime.cli import NatsOption, command, out, run_async, settings_of
from runtime.doctor import examine
from runtime.exits import FAILED_EXIT

_MARKS = {"ok": ("ok   ", "green"), "note": ("note ", "yellow"), "wrong": ("WRONG", "bold red")}


def add_verbs(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(doctor)


@command
def doctor(nats: NatsOption = None) -> None:
    """Check versions, models, disk, ports, broker and agents; exit 1 when something is wrong."""
    findings = run_async(examine, settings_of(nats=nats))
    for finding in findings:
        line = Text.assemble(_MARKS[finding.state], f" {finding.name:32} {finding.detail}")
        if finding.state != "ok" and finding.mend:
            line.append(f"  -> {finding.mend}", style="cyan")
        out.print(line, soft_wrap=True)
    if any(finding.state == "wrong" for finding in findings):
        raise typer.Exit(FAILED_EXIT)
