"""Another agent in the place of a real one, for processes that tests start."""

from collections.abc import Callable
from dataclasses import replace

from bus.agent import Agent
from runtime import agents
from runtime.settings import Settings


def replace_agent(name: str, build: Callable[[Settings], Agent]) -> None:
    """From now on this process builds the agent ``name`` with ``build``."""
    agents.REGISTRY = tuple(replace(spec, build=build) if spec.name == name else spec for spec in agents.REGISTRY)
