"""``kiki services ls | register | unregister | trim``: the services that read the record, and how far each has read."""

import time
from typing import Annotated

import msgspec
import typer
from rich.table import Table

from agents.shared.times import parse_time
from bus.connection import Bus
from runtime.cli import NatsOption, command, out, run_on_bus
from schemas.calls import SERVICES_LS, SERVICES_REGISTER, SERVICES_TRIM, SERVICES_UNREGISTER
from schemas.codec import field_of
from schemas.errors import InvalidInput
from schemas.services import (
    RegisterRequest,
    ServiceInfo,
    ServiceListRequest,
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

    async def print_list(bus: Bus) -> None:
        reply = await bus.request(SERVICES_LS, ServiceListRequest(), timeout=TIMEOUT)
        table = Table("name", "place", "lag", "reads", "filter", "since", box=None)
        for service in reply.services:
            since = time.strftime("%Y-%m-%d %H:%M", time.localtime(service.registered_at))
            table.add_row(
                service.name,
                str(service.place),
                str(service.lag),
                ", ".join(service.subjects),
                _filter_text(service),
                since,
            )
        out.print(table if reply.services else "no services are registered")
        for name in reply.others:
            out.print(
                f"{name} is a consumer that no registration made; trim and sleep wait for it: "
                f"'nats consumer rm EPISODES {name} -f' removes it",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )

    run_on_bus(print_list, nats)


@app.command()
@command
def register(
    name: NameArgument,
    subject: Annotated[list[str] | None, typer.Option(help="Event to read; again for more.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    user: Annotated[str | None, typer.Option(help="Only this user's.")] = None,
    session: Annotated[str | None, typer.Option(help="Only this session's.")] = None,
    min_saillance: Annotated[float, typer.Option(help="Only episodes of at least this salience, 0 to 1.")] = 0.0,
    ack_wait: Annotated[float, typer.Option(help="Seconds that fetched records belong to their holder.")] = 30.0,
    begin: Annotated[str, typer.Option(help="'first' record or only 'new' ones.")] = "first",
    nats: NatsOption = None,
) -> None:
    """Take a name and a place in the record."""
    request = _parse_request(
        {
            "name": name,
            "subjects": subject or RegisterRequest(name=name).subjects,
            "filter": {"tenant": tenant, "user": user, "session_id": session, "min_saillance": min_saillance},
            "ack_wait": ack_wait,
            "begin": begin,
        }
    )

    async def register_service(bus: Bus) -> None:
        info = await bus.request(SERVICES_REGISTER, request, timeout=TIMEOUT)
        out.print(f"registered {info.name}: {info.lag} records before it", highlight=False)

    run_on_bus(register_service, nats)


@app.command()
@command
def unregister(name: NameArgument, nats: NatsOption = None) -> None:
    """Give a name and its place up: the record no longer waits for it."""

    async def unregister_service(bus: Bus) -> None:
        info = await bus.request(SERVICES_UNREGISTER, UnregisterRequest(name=name), timeout=TIMEOUT)
        out.print(f"unregistered {info.name}: it had {info.lag} records left", highlight=False)

    run_on_bus(unregister_service, nats)


@app.command()
@command
def trim(
    before: Annotated[str, typer.Argument(help="Unix seconds or a date.")],
    nats: NatsOption = None,
) -> None:
    """Drop what is older from the record and was consumed by all. A rebuild of the memory will not find it again."""
    request = TrimRequest(before=parse_time(before, param="before"))

    async def trim_record(bus: Bus) -> None:
        reply = await bus.request(SERVICES_TRIM, request, timeout=TIMEOUT)
        remainder = f"; the rest waits for {reply.held_by}" if reply.held_by else ""
        out.print(f"{reply.dropped} records dropped{remainder}", highlight=False)

    run_on_bus(trim_record, nats)


def _filter_text(service: ServiceInfo) -> str:
    criteria = service.filter
    parts = (
        f"tenant {criteria.tenant}" if criteria.tenant else "",
        f"user {criteria.user}" if criteria.user is not None else "",
        f"session {criteria.session_id}" if criteria.session_id else "",
        f"salience >= {criteria.min_saillance:g}" if criteria.min_saillance else "",
    )
    return ", ".join(filter(None, parts)) or "all"


def _parse_request(body: dict[str, object]) -> RegisterRequest:
    try:
        return msgspec.convert(body, RegisterRequest)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"cannot register: {error}.", param=field_of(str(error))) from error
