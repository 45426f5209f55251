"""The runtime of a soak: ``python -m runtime.soak.up``, as ``kiki up`` starts it but for some processes' commands."""

import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence

import anyio

from runtime.exits import exit_code, first_error
from runtime.observability import configure
from runtime.settings import Settings, load_settings
from runtime.supervisor import Supervisor

COMMANDS = "KIKI_SOAK_COMMANDS"
"""JSON: a process's name to the command that it runs."""


async def serve(settings: Settings, commands: Mapping[str, Sequence[str]]) -> None:
    """Run all of it until a signal comes."""
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with Supervisor(settings, title="kiki soak", commands=commands).running():
            await anext(signals)


def main() -> None:
    """Run it with the settings of the environment."""
    settings = load_settings()
    configure(settings, service="kiki")
    try:
        anyio.run(serve, settings, json.loads(os.environ[COMMANDS]), backend="asyncio")
    except BaseExceptionGroup as group:
        error = first_error(group)
        sys.stderr.write(f"kiki: {error.message}\n")
        sys.exit(exit_code(error))


if __name__ == "__main__":
    main()
