"""Puts the parts of a process together from the settings: the bus, its agents, the facade."""

from collections import Counter
from collections.abc import Sequence

from bus.agent import Agent
from bus.broker.ownership import find_holder
from bus.connection import Bus, BusSettings
from runtime.agents import FACADE, all_agents, find_spec, read_settings
from runtime.settings import Settings
from schemas.errors import SetupError


def group_by_process(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The agents of each process, by the process's name.

    Agents with the same ``AgentSpec.process`` share it when at least two of them are among ``names``; an agent that is
    named alone has a process of its own name. A turn goes from one of them to the next, so code and caches that the
    first has warmed serve the others (docs/architecture.md has the figures).
    """
    specs = [spec for name in names if (spec := find_spec(name)) is not None]
    shared = {spec.name: spec.process for spec in specs if spec.process is not None}
    counts = Counter(shared.values())
    groups: dict[str, tuple[str, ...]] = {}
    for name in names:
        process = shared[name] if name in shared and counts[shared[name]] > 1 else name
        groups[process] = (*groups.get(process, ()), name)
    return groups


def broker_url(settings: Settings) -> str:
    """The broker's address: ``nats``, else of the process that holds the data directory, else the default one."""
    if settings.nats is not None:
        return settings.nats
    holder = find_holder(settings.data_dir)
    return holder.url if holder is not None and holder.url else f"nats://127.0.0.1:{settings.nats_port}"


def bus_settings(settings: Settings) -> BusSettings:
    """How to reach the broker."""
    return BusSettings(url=broker_url(settings), prefix=settings.prefix, replicas=settings.replicas)


def build_agent(name: str, settings: Settings) -> Agent:
    """Build an agent; heavy parts are imported only for the agent that needs them.

    Raises:
        SetupError: there is no agent of that name, or a setting of it is wrong.
    """
    spec = find_spec(name)
    if spec is None:
        raise SetupError(
            f"there is no agent '{name}': choose from {', '.join((*all_agents(), FACADE))}.", param="agent"
        )
    return spec.build(settings)


async def serve_facade(bus: Bus, settings: Settings) -> None:
    """Run the HTTP facade until cancelled."""
    from runtime.catalogue import load_catalogue
    from runtime.facade import FacadeSettings, serve

    defaults = {
        "host": settings.host,
        "port": settings.port,
        "api_keys": settings.api_keys,
        "one_memory": settings.one_memory,
        "admin_key": settings.admin_key,
        "turn_timeout": settings.turn_timeout,
        "broker_dir": settings.broker_dir,
        "disk_reserve": settings.disk_reserve,
    }
    await serve(bus, read_settings(FacadeSettings, FACADE, settings, defaults), load_catalogue())
