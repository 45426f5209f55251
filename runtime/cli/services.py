"""``kiki services ls | register | unregister | trim``: who reads the record, and how far each of them is."""

import time
from typing import Annotated

import msgspec
import typer
from rich.table import Table

from agents.memory.imports import seconds
from bus.connection import Bus
from runtime.cli import NatsOption, command, on_bus, out
from schemas.codec import field_of
from schemas.errors import InvalidInput
from schemas.services import (
    RegisterRequest,
    ServiceInfo,
    ServiceListReply,
    ServiceListRequest,
    TrimReply,
    TrimRequest,
    UnregisterRequest,
)

app = typer.Typer(help="Services that read the record at their own pace.", no_args_is_help=True)

TIMEOUT = 30.0
NameArgument = Annotated[str, typer.Argument(help="The service's name.")]


@app.command(name="ls")
@command
def list_services(nats: NatsOption = None) -> None:
    """List the registered services, where they are and how far behind."""

    async def listed(bus: Bus) -> None:
        reply = await bus.request("services.ls", ServiceListRequest(), ServiceListReply, timeout=TIMEOUT)
        table = Table("name", "place", "lag", "reads", "filter", "since", box=None)
        for one in reply.services:
            since = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.registered_at))
            table.add_row(one.name, str(one.place), str(one.lag), ", ".join(one.subjects), _filter(one), since)
        out.print(table if reply.services else "no services are registered")

    on_bus(listed, nats)


@app.command()
@command
def register(
    name: NameArgument,
    subject: Annotated[list[str] | None, typer.Option(help="Event to read; again for more.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    session: Annotated[str | None, typer.Option(help="Only this session's.")] = None,
    min_saillance: Annotated[float, typer.Option(help="Only episodes of at least this salience, 0 to 1.")] = 0.0,
    ack_wait: Annotated[float, typer.Option(help="Seconds that fetched records belong to their holder.")] = 30.0,
    begin: Annotated[str, typer.Option(help="'first' record or only 'new' ones.")] = "first",
    nats: NatsOption = None,
) -> None:
    """Take a name and a place in the record."""
    request = _checked(
        {
            "name": name,
            "subjects": subject or ["episode.recorded"],
            "filter": {"tenant": tenant, "session_id": session, "min_saillance": min_saillance},
            "ack_wait": ack_wait,
            "begin": begin,
        }
    )

    async def registered(bus: Bus) -> None:
        info = await bus.request("services.register", request, ServiceInfo, timeout=TIMEOUT)
        out.print(f"registered {info.name}: {info.lag} records before it", highlight=False)

    on_bus(registered, nats)


@app.command()
@command
def unregister(name: NameArgument, nats: NatsOption = None) -> None:
    """Give a name and its place up: the record no longer waits for it."""

    async def unregistered(bus: Bus) -> None:
        info = await bus.request("services.unregister", UnregisterRequest(name=name), ServiceInfo, timeout=TIMEOUT)
        out.print(f"unregistered {info.name}: it had {info.lag} records left", highlight=False)

    on_bus(unregistered, nats)


@app.command()
@command
def trim(
    before: Annotated[str, typer.Argument(help="Unix seconds or a date.")],
    nats: NatsOption = None,
) -> None:
    """Drop what is older from the record and was consumed by all. A rebuild of the memory will not find it again."""
    request = TrimRequest(before=seconds(before, param="before"))

    async def trimmed(bus: Bus) -> None:
        reply = await bus.request("services.trim", request, TrimReply, timeout=TIMEOUT)
        held = f"; the rest waits for {reply.held_by}" if reply.held_by else ""
        out.print(f"{reply.dropped} records dropped{held}", highlight=False)

    on_bus(trimmed, nats)


def _filter(one: ServiceInfo) -> str:
    chosen = one.filter
    said = (
        f"tenant {chosen.tenant}" if chosen.tenant else "",
        f"session {chosen.session_id}" if chosen.session_id else "",
        f"salience >= {chosen.min_saillance:g}" if chosen.min_saillance else "",
    )
    return ", ".join(filter(None, said)) or "all"


def _checked(body: dict[str, object]) -> RegisterRequest:
    try:
        return msgspec.convert(body, RegisterRequest)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"cannot register: {error}.", param=field_of(str(error))) from error
