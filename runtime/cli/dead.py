"""``kiki dead ls | show | replay``: messages that were given up, the reason, and another try."""

import time
from typing import Annotated

import typer
from rich.table import Table

from bus import dead_letters as letters
from bus.connection import Bus
from runtime.cli import NatsOption, command, out, run_on_bus

app = typer.Typer(help="Dead letters: list, show, replay.", no_args_is_help=True)

SeqArgument = Annotated[int, typer.Argument(help="The number that 'kiki dead ls' prints.")]


@app.command(name="ls")
@command
def list_letters(nats: NatsOption = None) -> None:
    """List all dead letters, oldest first."""

    async def print_list(bus: Bus) -> None:
        table = Table("seq", "when", "consumer", "subject", "tries", "reason", box=None)
        async for entry in letters.read_letters(bus):
            letter = entry.letter
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(letter.failed_at))
            cells = (letter.consumer, letter.subject, str(letter.deliveries), letter.reason[:100])
            table.add_row(str(entry.seq), when, *cells)
        out.print(table if table.row_count else "no dead letters")

    run_on_bus(print_list, nats)


@app.command()
@command
def show(seq: SeqArgument, nats: NatsOption = None) -> None:
    """Show one dead letter whole: reason, headers, body."""

    async def print_letter(bus: Bus) -> None:
        letter = (await letters.read_letter(bus, seq)).letter
        for name in ("subject", "stream", "consumer", "deliveries", "reason"):
            out.print(f"{name:12}{getattr(letter, name)}", markup=False, highlight=False, soft_wrap=True)
        for key, value in letter.headers.items():
            out.print(f"header      {key}: {value}", markup=False, highlight=False, soft_wrap=True)
        out.print(
            letters.readable_text(await letters.read_payload(bus, letter)),
            markup=False,
            highlight=False,
            soft_wrap=True,
        )

    run_on_bus(print_letter, nats)


@app.command()
@command
def replay(seq: SeqArgument, nats: NatsOption = None) -> None:
    """Publish the original again, with a fresh deadline, and delete the dead letter."""

    async def publish_again(bus: Bus) -> None:
        out.print(f"published again on {await letters.replay(bus, seq)}", highlight=False)

    run_on_bus(publish_again, nats)
