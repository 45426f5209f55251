"""``kiki adapters``: the adapters of a running worker, and the gates on folders (:mod:`runtime.cli.gates`)."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from agents.shared import workers
from bus.connection import Bus
from runtime.cli import NatsOption, command, err, gates, out, run_on_bus, say, settings_of
from runtime.exits import FAILED_EXIT
from schemas.adapters import AdapterInfo, adapter_request
from schemas.calls import ADAPTER_VERBS
from schemas.errors import SetupError

app = typer.Typer(help="LoRA adapters: of the running worker, and in folders.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(help="A registered name, as 'kiki adapters ls' prints it.")]
TIMEOUT = 120.0
"""Seconds for reading an adapter from a slow disk."""


@app.command(name="ls")
@command
def list_adapters(nats: NatsOption = None) -> None:
    """List the registered adapters of each worker, and where they are now."""

    async def print_list(bus: Bus) -> None:
        listings = await workers.list_adapters(bus, timeout=TIMEOUT)
        infos = [info for listing in listings for info in listing.adapters]
        table = Table("worker", "name", "state", "gates", "MB", "modules", "sha256", box=None)
        for info in infos:
            size, digest = f"{info.bytes / 1e6:.1f}", info.sha256[:12]
            table.add_row(info.worker, info.name, state(info), info.verdict or "", size, str(info.modules), digest)
        out.print(table if infos else "no adapters are registered")
        for info in infos:
            if info.refusal:
                out.print(f"{info.name}: {info.refusal}", markup=False, highlight=False, soft_wrap=True)
        for name, digests in workers.find_disagreements(listings).items():
            err.print(workers.describe_disagreement(name, digests), style="yellow", highlight=False)

    run_on_bus(print_list, nats)


@app.command(cls=gates.GateCommand)
@command
def check(
    name: Annotated[str, typer.Argument(help="A registered name, or a folder: whatever has a '/' in it.")],
    model: gates.ModelOption = None,
    as_json: gates.JsonOption = False,
    nats: NatsOption = None,
) -> None:
    """Read an adapter and verify it: format, pairs, shapes, finite numbers, no lora_b of zeros. Keeps nothing.

    A folder is read offline and its shapes are compared with those of --model: 0 healthy, 3 not, 64 not checked.
    """
    if "/" in name:
        gates.check_folder(name, model=model, as_json=as_json)
    else:
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


@app.command()
@command
def pull(
    repository: Annotated[str, typer.Argument(help="ORG/NAME or ORG/NAME@REVISION of the Hugging Face hub.")],
    domains: Annotated[
        list[str] | None, typer.Argument(help="Domains, or folders of it; all when none is named.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--adapters", help="The adapters folder; the settings' by default.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace other weights; they are kept beside.")] = False,
) -> None:
    """Fetch adapters from the hub, and judge each before it may be served: sizes first, resumable, by digest."""
    from runtime.models import adapters as remote
    from runtime.models import show_progress

    target = folder or settings_of().adapters
    if target is None:
        raise SetupError("no adapters folder: give --adapters FOLDER, or set KIKI_ADAPTERS.", param="adapters")
    with show_progress(console=err) as progress:
        pulled = remote.pull_adapters(
            repository, tuple(domains or ()), target, replace=replace, say=say, report=progress
        )
    for adapter, verdict in pulled:
        reason = f": {verdict.message}" if verdict.message else ""
        out.print(f"{adapter.name}: {verdict.state}{reason}", markup=False, highlight=False, soft_wrap=True)
    if any(verdict.state == "refused" for _, verdict in pulled):
        raise typer.Exit(FAILED_EXIT)


def state(info: AdapterInfo) -> str:
    """Where the adapter is, in one word."""
    states = (("active", info.active), ("seated", info.seated), ("resident", info.resident))
    return next((word for word, holds in states if holds), "registered")


def _perform(verb: str, name: str, nats: str | None) -> None:
    request = adapter_request(name)

    async def request_and_print(bus: Bus) -> None:
        info = await bus.request(ADAPTER_VERBS[verb], request, timeout=TIMEOUT)
        size = f", {info.bytes / 1e6:.1f} MB, {info.modules} modules, {info.sha256[:12]}" if info.sha256 else ""
        place = f" on {info.worker}" if info.worker else ""
        out.print(f"{verb} {info.name}{place}: {state(info)}{size}, {info.seconds * 1000:.1f} ms", highlight=False)

    run_on_bus(request_and_print, nats)


gates.add_verbs(app)
