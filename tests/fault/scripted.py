"""``kiki up`` with a worker that answers at once without a model; everything else is the real thing."""

import sys
from typing import Any

import anyio
import anyio.abc

from bus.testing import ScriptedWorker
from runtime import process
from runtime.cli.__main__ import app
from runtime.settings import Settings, load
from tests.fault.registry import replace_agent

REAL = [sys.executable, "-m", "runtime.child"]


def build(settings: Settings) -> ScriptedWorker:
    """The agent that runs in the real worker's place: it repeats the question."""
    return ScriptedWorker(on_turn=lambda event: f"You asked: {event.query.text}", concurrency=32)


def up() -> None:
    """The supervisor, whose worker is this module."""
    real = anyio.open_process

    async def open_scripted(command: list[str], **options: Any) -> anyio.abc.Process:
        if command == [*REAL, "inference"]:
            command = [sys.executable, "-m", "tests.fault.scripted", "run", "inference"]
        return await real(command, **options)

    anyio.open_process = open_scripted  # type: ignore[assignment]
    app()


if __name__ == "__main__":
    if sys.argv[1] == "up":
        up()
    else:
        replace_agent("inference", build)
        anyio.run(process.serve, sys.argv[2:], load(), backend="asyncio")
