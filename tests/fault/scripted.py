"""``kiki up`` with a worker that answers at once without a model; all other parts are the real ones."""

import sys
from typing import Any

import anyio
import anyio.abc

from bus.testing import ScriptedWorker
from runtime import process
from runtime.cli.__main__ import app
from runtime.settings import Settings, load_settings
from tests.fault.registry import replace_agent

REAL_COMMAND = [sys.executable, "-m", "runtime.child"]


def build(settings: Settings) -> ScriptedWorker:
    """The agent that runs in the real worker's place: it repeats the question."""
    return ScriptedWorker(on_turn=lambda event: f"You asked: {event.query.text}", concurrency=32)


def up(module: str = "tests.fault.scripted") -> None:
    """Run ``kiki up``; its supervisor starts ``module`` instead of the real worker."""
    open_process = anyio.open_process

    async def open_scripted(command: list[str], **options: Any) -> anyio.abc.Process:
        if command == [*REAL_COMMAND, "inference"]:
            command = [sys.executable, "-m", module, "run", "inference"]
        return await open_process(command, **options)

    anyio.open_process = open_scripted  # type: ignore[assignment]
    app()


if __name__ == "__main__":
    if sys.argv[1] == "up":
        up()
    else:
        replace_agent("inference", build)
        anyio.run(process.serve, sys.argv[2:], load_settings(), backend="asyncio")
