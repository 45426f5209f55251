"""``kiki broker``: the embedded broker alone; ``kiki broker creds | ls | revoke``: its users from outside."""

from pathlib import Path
from typing import Annotated

import anyio
import typer

from bus import broker
from bus.access.login import seed_file
from bus.access.users import write_users
from runtime import access
from runtime.cli import cancel_on_signal, command, out, run_async, settings_of
from runtime.settings import Settings
from runtime.supervisor import Supervisor
from schemas.errors import InvalidInput, SetupError

app = typer.Typer(help="Start the embedded broker alone, for agents of 'kiki run'; or see to its users from outside.")

NameArgument = Annotated[str, typer.Argument(help="The user's name.")]
TenantOption = Annotated[
    str | None, typer.Option(help="The tenant that the user asks as; none: a service trusted with everybody's turns.")
]


@app.callback(invoke_without_command=True)
@command
def serve(context: typer.Context) -> None:
    """Start the embedded broker alone, for agents of 'kiki run'; or see to its users from outside."""
    if context.invoked_subcommand is None:
        settings = settings_of()
        _directory(settings)
        run_async(_serve_broker, settings)


async def _serve_broker(settings: Settings) -> None:
    supervisor = Supervisor(settings, names=(), title="kiki broker")
    async with supervisor.running(), anyio.create_task_group() as tasks:
        tasks.start_soon(cancel_on_signal, tasks.cancel_scope)
        assert supervisor.broker is not None
        out.print(f"broker on {supervisor.broker.url}, in {settings.data_dir}  (Ctrl-C stops it)")
        await anyio.sleep_forever()


@app.command()
@command
def creds(name: NameArgument, tenant: TenantOption = None) -> None:
    """Make a user, or find its file again; print the path of the file, which opens the broker to who has it."""
    settings = settings_of()
    user = access.outsider_name(name, tenant)
    path = seed_file(_directory(settings), user)
    _apply(settings, access.list_users(_directory(settings), settings.prefix, user))
    out.print(str(path), markup=False, highlight=False, soft_wrap=True)


@app.command(name="ls")
@command
def list_outsiders() -> None:
    """List the users from outside."""
    for user in access.list_outsiders(_directory(settings_of())):
        _, _, rest = user.partition("ask.")
        tenant, _, name = rest.partition(".")
        out.print(f"{name}, tenant {tenant}" if rest else f"{user}, trusted", markup=False, highlight=False)


@app.command()
@command
def revoke(name: NameArgument, tenant: TenantOption = None) -> None:
    """Remove a user: its connections end, and its file opens nothing any more."""
    settings = settings_of()
    path = seed_file(_directory(settings), access.outsider_name(name, tenant))
    if not path.exists():
        raise InvalidInput(f"there is no user '{name}': 'kiki broker ls' lists them.", param="name")
    path.unlink()
    _apply(settings, access.list_users(_directory(settings), settings.prefix))


def _directory(settings: Settings) -> Path:
    if settings.broker_dir is None:
        raise SetupError(
            "a broker that 'nats' names is not ours to start, nor are its users: leave it out.", param="nats"
        )
    return settings.broker_dir


def _apply(settings: Settings, users: broker.Users) -> None:
    """Write the users down; a broker that runs takes them over at once, another one when it starts."""
    directory = _directory(settings)
    write_users(directory, users)
    broker.reload(directory)
