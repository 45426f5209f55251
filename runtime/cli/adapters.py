"""``kiki adapters ls | check | load | unload | activate``: the adapters of a running worker."""

from typing import Annotated, Literal

import typer
from rich.table import Table

from bus.connection import Bus
from runtime.cli import NatsOption, command, out, run_on_bus
from schemas.adapters import AdapterInfo, AdapterListReply, AdapterListRequest, adapter_request

app = typer.Typer(help="LoRA adapters of the running worker.", no_args_is_help=True)

Verb = Literal["check", "load", "unload", "activate"]
NameArgument = Annotated[str, typer.Argument(help="A registered name, as 'kiki adapters ls' prints it.")]
TIMEOUT = 120.0
"""Seconds for reading an adapter from a slow disk."""


@app.command(name="ls")
@command
def list_adapters(nats: NatsOption = None) -> None:
    """List the registered adapters and where they are now."""

    async def print_list(bus: Bus) -> None:
        reply = await bus.request("adapters.ls", AdapterListRequest(), AdapterListReply, timeout=TIMEOUT)
        table = Table("name", "state", "MB", "modules", "sha256", box=None)
        for info in reply.adapters:
            table.add_row(info.name, state(info), f"{info.bytes / 1e6:.1f}", str(info.modules), info.sha256[:12])
        out.print(table if reply.adapters else "no adapters are registered")

    run_on_bus(print_list, nats)


@app.command()
@command
def check(name: NameArgument, nats: NatsOption = None) -> None:
    """Read an adapter and verify it: shapes, finite numbers, no lora_b of zeros. Keeps nothing."""
    _perform("check", name, nats)


@app.command()
@command
def load(name: NameArgument, nats: NatsOption = None) -> None:
    """Make an adapter resident."""
    _perform("load", name, nats)


@app.command()
@command
def unload(name: NameArgument, nats: NatsOption = None) -> None:
    """Forget a resident adapter that no request is using."""
    _perform("unload", name, nats)


@app.command()
@command
def activate(name: NameArgument, nats: NatsOption = None) -> None:
    """Load an adapter, prove that it changes the logits, and seat it for its first request."""
    _perform("activate", name, nats)


def state(info: AdapterInfo) -> str:
    """Where the adapter is, in one word."""
    states = (("active", info.active), ("seated", info.seated), ("resident", info.resident))
    return next((word for word, holds in states if holds), "registered")


def _perform(verb: Verb, name: str, nats: str | None) -> None:
    request = adapter_request(name)

    async def request_and_print(bus: Bus) -> None:
        info = await bus.request(f"adapters.{verb}", request, AdapterInfo, timeout=TIMEOUT)
        size = f", {info.bytes / 1e6:.1f} MB, {info.modules} modules, {info.sha256[:12]}" if info.sha256 else ""
        out.print(f"{verb} {info.name}: {state(info)}{size}, {info.seconds * 1000:.1f} ms", highlight=False)

    run_on_bus(request_and_print, nats)
