"""``kiki up`` with a worker that answers at once without a model, and without a catfish, which is somebody else's."""

import sys

from runtime.agents import FACADE, default_agents
from runtime.cli import up as cli_up
from runtime.cli.__main__ import app
from runtime.settings import Settings
from runtime.supervisor import Supervisor


def supervise(settings: Settings, **options: object) -> Supervisor:
    """The supervisor of all agents but the catfish; ``/ready`` waits for that one, too."""
    names = tuple(name for name in (*default_agents(), FACADE) if name != "catfish")
    commands = {"inference": (sys.executable, "-m", "tests.fault.scripted", "run", "inference")}
    return Supervisor(settings, names=names, commands=commands)


if __name__ == "__main__":
    cli_up.Supervisor = supervise  # type: ignore[attr-defined, assignment]
    app()
