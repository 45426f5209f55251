"""Puts the parts of a process together from the settings: the bus, its agents, the facade."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from agents.inference.model_config import find_context
from bus.access.login import NO_LOGIN, OWNER, Login
from bus.agent import Agent
from bus.broker.ownership import find_holder
from bus.connection import Bus, BusSettings
from runtime import access, agents, guests
from runtime.agents import FACADE, all_agents, find_spec, read_settings
from runtime.limits import derive_limits
from runtime.settings import Settings
from schemas.errors import SetupError

DEBUG_TURN_SECONDS = 900.0
"""Seconds that a turn may take where the settings say ``debug``: the most that a setting can allow."""


def group_by_process(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The agents of each process, by the process's name.

    Agents with the same ``AgentSpec.process`` share it when at least two of them are among ``names``; an agent that is
    named alone has a process of its own name. A turn goes from one of them to the next, so code and caches that the
    first has warmed serve the others (docs/architecture.md).
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


def bus_settings(settings: Settings, *, user: str = OWNER) -> BusSettings:
    """How to reach the broker: the embedded one as its ``user``, another one as the settings say.

    Raises:
        SetupError: the settings have a login for a broker that they do not name.
    """
    guests.refuse_strangers(settings)
    url, login = broker_url(settings), _read_login(settings)
    if settings.nats is None and login != NO_LOGIN:
        raise SetupError(
            "nats_nkey, nats_creds, nats_ca, nats_cert and nats_key belong to a broker of your own: name it with nats.",
            param="nats",
        )
    if login == NO_LOGIN and _is_embedded(settings, url):
        login = access.login_of(settings.data_dir / "nats", user)
    return BusSettings(
        url=url,
        login=login,
        prefix=settings.prefix,
        replicas=settings.replicas,
        tenant_turns=settings.tenant_turns,
        tenant_bytes=settings.tenant_bytes,
        tenant_letters=settings.tenant_letters,
        guests=guests.chain_guests(settings),
        debug=settings.debug,
    )


def _read_login(settings: Settings) -> Login:
    return Login(
        nkey=settings.nats_nkey,
        creds=settings.nats_creds,
        ca=settings.nats_ca,
        cert=settings.nats_cert,
        key=settings.nats_key,
    )


def _is_embedded(settings: Settings, url: str) -> bool:
    """Whether the broker at ``url`` is that of the data directory, though it may have been named."""
    if settings.nats is None:
        return True
    holder = find_holder(settings.data_dir)
    return holder is not None and holder.url == url


def choose_payload(settings: Settings) -> int:
    """Bytes of a message that the embedded broker is to take: as the model's context needs, if the model is here."""
    return derive_limits(find_context_tokens(settings)).payload


def find_context_tokens(settings: Settings) -> int | None:
    """Tokens of the model's context, by the worker's settings or the model's files; None when neither says."""
    overrides = settings.agents.get("inference", {})
    if overrides.get("context_tokens") is not None:
        return int(overrides["context_tokens"])
    if overrides.get("engine") == "openai":
        return None
    path = find_model(settings)
    try:
        return find_context(json.loads((path / "config.json").read_bytes())) if path is not None else None
    except (OSError, ValueError):
        return None  # loading the model says what is wrong with it


def find_model(settings: Settings) -> Path | None:
    """The chat model's directory, if the model is here; nothing is fetched."""
    from runtime import models

    try:
        return models.find_ready(settings.model)
    except SetupError:
        return None  # a path that is no model: the worker says so


def check_settings(settings: Settings) -> None:
    """Refuse what is wrong in the settings as far as they themselves tell it: before anything is fetched or started.

    Settings of guests, and of an agent that another program may take the place of, are checked where they are made.

    Raises:
        SetupError: an agent, a place or a setting is unknown, or a value is wrong; the message names it.
    """
    guests.refuse_strangers(settings)
    guests.chain_guests(settings)
    guests.list_started(settings)
    for name in settings.agents:
        if name in (*all_agents(), FACADE) and not guests.read_placement(name, settings).external:
            agents.check_settings(name, settings)


def build_agent(name: str, settings: Settings) -> Agent:
    """Build an agent; heavy parts are imported only for the agent that needs them.

    Raises:
        SetupError: there is no agent of that name, or a setting of it is wrong.
    """
    guests.refuse_strangers(settings)
    if reference := guests.find_reference(name, settings):
        return guests.build_guest(name, reference, settings)
    spec = find_spec(name)
    if spec is None:
        known = guests.list_known(settings)
        raise SetupError(
            f"there is no agent '{name}': choose from {', '.join(known)}, or give package.module:Class.", param="agent"
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
        "turn_timeout": DEBUG_TURN_SECONDS if settings.debug else settings.turn_timeout,
        "expected_agents": guests.list_expected(settings),
        "external_agents": guests.list_external(settings),
        "broker_dir": settings.broker_dir,
        "disk_reserve": settings.disk_reserve,
    }
    await serve(bus, read_settings(FacadeSettings, FACADE, settings, defaults), load_catalogue())
