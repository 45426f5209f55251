"""``kiki memory rebuild | search | stats``: what the runtime remembers."""

import time
from collections.abc import Awaitable, Callable
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from bus.agent import reports
from bus.connection import Bus, connect
from runtime.cli import NatsOption, command, err, out, run_async, settings_of
from runtime.composition import bus_settings
from schemas.errors import Unavailable
from schemas.services import (
    EmbedReply,
    EmbedRequest,
    RebuildReply,
    RebuildRequest,
    SearchReply,
    SearchRequest,
)

app = typer.Typer(help="The episodic memory: search, rebuild, statistics.", no_args_is_help=True)

REBUILD_SECONDS = 3600.0

TenantOption = Annotated[str, typer.Option(help="Whose memory.")]


@app.command()
@command
def search(
    query: Annotated[str, typer.Argument(help="What to look for.")],
    tenant: TenantOption = "default",
    k: Annotated[int, typer.Option("--k", min=1, max=100, help="Hits at most.")] = 10,
    nats: NatsOption = None,
) -> None:
    """Find episodes, best first."""

    async def searched(bus: Bus) -> None:
        embedded = await bus.request("embed", EmbedRequest(texts=(query,)), EmbedReply, timeout=30.0)
        request = SearchRequest(tenant=tenant, vector=embedded.vectors[0], limit=k)
        reply = await bus.request("memory.search", request, SearchReply, timeout=30.0)
        for hit in reply.hits:
            when = time.strftime("%Y-%m-%d %H:%M", time.localtime(hit.created_at))
            out.print(Text.assemble((f"{hit.score:.3f}", "bold"), f"  {when}  {hit.question}"))
            out.print(Text(f"       {hit.answer}", style="dim"))
        if not reply.hits:
            out.print("nothing found")

    _on_bus(searched, nats)


@app.command()
@command
def rebuild(nats: NatsOption = None) -> None:
    """Make Atlas and Trace again from the record. The runtime keeps answering meanwhile."""

    async def rebuilt(bus: Bus) -> None:
        with err.status("projecting the record again"):
            reply = await bus.request("memory.rebuild", RebuildRequest(), RebuildReply, timeout=REBUILD_SECONDS)
        out.print(f"{reply.episodes} episodes in {reply.seconds:.1f} s", highlight=False)

    _on_bus(rebuilt, nats)


@app.command()
@command
def stats(nats: NatsOption = None) -> None:
    """Episodes in each store, the projection's lag, recalls and hits."""

    async def counted(bus: Bus) -> None:
        found = [report.status for report in await reports(bus, window=0.5) if report.status.agent == "memory"]
        if not found:
            raise Unavailable("no memory agent answers: start it with 'kiki up' or 'kiki run memory'.")
        table = Table("gauge", "value", box=None)
        for name, value in sorted(found[0].gauges.items()):
            table.add_row(name, f"{value:g}")
        out.print(table)

    _on_bus(counted, nats)


def _on_bus(verb: Callable[[Bus], Awaitable[None]], nats: str | None) -> None:
    settings = settings_of(nats=nats)

    async def connected() -> None:
        async with connect(bus_settings(settings), name="kiki-memory") as bus:
            await verb(bus)

    run_async(connected)
