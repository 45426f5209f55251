"""``kiki``: one command, a module for each group of verbs.

A :class:`schemas.errors.KikiError` ends the command with one line that says what is wrong and how to mend it,
and an exit code that is not 0.
"""

import functools
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import anyio
import typer

from bus.connection import Bus, connect
from runtime.composition import bus_settings
from runtime.exits import exit_code, first_error
from runtime.settings import Settings, load_settings
from runtime.terminal import TerminalConsole
from schemas.base import refuse_non_finite
from schemas.errors import InvalidInput, KikiError

T = TypeVar("T")

NatsOption = Annotated[str | None, typer.Option("--nats", help="URL of a NATS server; none: the embedded one.")]

# What is printed is mostly text of others: brackets and colons in it are no markup.
out = TerminalConsole(markup=False, emoji=False)
err = TerminalConsole(stderr=True, markup=False, emoji=False)


def say(text: str) -> None:
    """Print one line for a person, on standard error: what a command prints for programs stays as it is."""
    err.print(text, style="dim", markup=False, highlight=False, soft_wrap=True)


def fail(error: KikiError) -> NoReturn:
    """Print the error as one line and exit with its code."""
    err.print(f"kiki: {error.message}", style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(exit_code(error))


def command(verb: Callable[..., T]) -> Callable[..., T]:
    """Decorate a verb: a :class:`KikiError` that it raises becomes one line and an exit code."""

    @functools.wraps(verb)
    def run_verb(*args: Any, **options: Any) -> T:
        try:
            # A range of click's takes NaN, and whatever is compared with NaN is false.
            refuse_non_finite(**{name: value for name, value in options.items() if isinstance(value, float)})
            return verb(*args, **options)
        except KikiError as error:
            fail(error)
        except BaseExceptionGroup as group:
            fail(first_error(group))

    return run_verb


def run_async(verb: Callable[..., Awaitable[T]], *args: Any) -> T:
    """Run an async verb on asyncio, which nats-py needs."""
    return anyio.run(functools.partial(_await_verb, verb), *args, backend="asyncio")


async def _await_verb(verb: Callable[..., Awaitable[T]], *args: Any) -> T:
    return await verb(*args)


async def cancel_on_signal(scope: anyio.CancelScope) -> None:
    """Cancel the scope when the process is told to stop."""
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            out.print("stopping")
            scope.cancel()
            return


def run_on_bus(verb: Callable[[Bus], Awaitable[None]], nats: str | None) -> None:
    """Run a verb on the running runtime's bus."""
    settings = settings_of(nats=nats)

    async def connect_and_run() -> None:
        async with connect(bus_settings(settings), name="kiki") as bus:
            await bus.create_missing_streams()
            await verb(bus)

    run_async(connect_and_run)


def read_text(file: Path) -> str:
    """The text of a file that an option names; ``-`` is standard input.

    Raises:
        InvalidInput: it cannot be read or is not UTF-8.
    """
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"cannot read {file}: {error}.", param="file") from error


def settings_of(**overrides: Any) -> Settings:
    """Settings with the command line's options over them, and this process's logs set up."""
    from runtime import observability

    settings = load_settings(**overrides)
    observability.configure(settings, service="kiki")
    return settings
