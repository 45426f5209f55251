"""``kiki up`` with a worker that answers at once without a model; all other parts are the real ones."""

import sys
from functools import partial

import anyio

from bus.testing import ScriptedWorker
from runtime import process
from runtime.agents import replace_agent
from runtime.cli import up as cli_up
from runtime.cli.__main__ import app
from runtime.settings import Settings, load_settings
from runtime.supervisor import Supervisor


def build(settings: Settings) -> ScriptedWorker:
    """The agent that runs in the real worker's place: it repeats the question."""
    return ScriptedWorker(on_turn=lambda event: f"You asked: {event.query.text}", concurrency=32)


def up(module: str = "tests.fault.scripted") -> None:
    """Run ``kiki up``; its supervisor starts ``module`` instead of the real worker."""
    commands = {"inference": (sys.executable, "-m", module, "run", "inference")}
    cli_up.Supervisor = partial(Supervisor, commands=commands)  # type: ignore[attr-defined, assignment]
    app()


if __name__ == "__main__":
    if sys.argv[1] == "up":
        up()
    else:
        replace_agent("inference", build)
        anyio.run(process.serve, sys.argv[2:], load_settings(), backend="asyncio")
