"""Who may do what on the embedded broker: a role for the processes of each kind, and the person of the machine.

:data:`ROLES` is the truth; the table in docs/trust.md is written from it, and a test holds the two together. The roles
keep a mistake of one process from the work of another. They are no wall between our processes, which run as one user
of the machine and could read each other's files; that wall stands around all of them.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from bus.access.login import NO_LOGIN, OWNER, Login, seed_file
from bus.access.permissions import (
    OBJECTS,
    TENANTS_REQUESTS,
    Permissions,
    Role,
    owner_permissions,
    permissions_of,
    tenant_permissions,
)
from bus.subjects import Subjects
from bus.topology import ADAPTERS, ANSWERS, DEAD, DREAMLOG, DREAMS, EPISODES, JOBS, LATENTS, SERVICES, TURNS
from runtime.agents import FACADE, find_spec
from schemas.errors import InvalidInput

_STAGE = ("turn.failed.*", "turn.cancelled.*", "dead.*")
"""What every agent with a place in the turn publishes when it gives a message up."""

_CANCELLED = "turn.cancelled.*"
_REGISTRATION = ("services.register", "services.unregister", "services.ls", "services.fetch", "services.mark")
_TURN_STREAMS = (TURNS, ANSWERS, OBJECTS, DEAD)
"""What an agent with a place in the turn reads; of the dead letters it drops those beyond a tenant's share."""

ROLES = (
    Role(
        name=FACADE,
        publishes=("query.received.*", "answer.taken.*", "turn.cancelled.*", "storage.probe"),
        listens=("*.*.*",),
        serves=("awaits.*",),
        asks=(
            *("status", "status.*", "route", "embed", "count", "memory.search", "memory.session", "memory.forget"),
            *("memory.conversation", "adapters.*"),
        ),
        reads=(TURNS, ANSWERS, EPISODES),
        keeps_consumers=(TURNS, ANSWERS, EPISODES),
    ),
    Role(
        name="router",
        publishes=("query.routed.*", *_STAGE),
        listens=(_CANCELLED, "query.received.*", "query.routed.*", "infer.done.*"),
        serves=("status", "status.router", "status.embedder", "route", "embed", "compare", "memory.embed"),
        asks=("embed", "awaits.*", "advise.*", "memory.conversation"),
        reads=_TURN_STREAMS,
        trims=(DEAD,),
        keeps_consumers=_TURN_STREAMS,
    ),
    Role(
        name="memory",
        publishes=("recall.done.*", "episode.recorded.*", "episode.forgotten.*", "job.*.*", *_STAGE),
        listens=(_CANCELLED,),
        serves=(
            *("status", "status.memory", "memory.search", "memory.rebuild", "memory.verify", "memory.stats"),
            *("memory.sleep", "memory.session", "memory.conversation", "memory.forget"),
        ),
        asks=("embed", "memory.embed", "awaits.*"),
        reads=(TURNS, ANSWERS, EPISODES, SERVICES, DEAD, OBJECTS),
        trims=(TURNS, ANSWERS, EPISODES, DEAD, OBJECTS),
        keeps_consumers=(TURNS, ANSWERS, EPISODES, SERVICES, DEAD, OBJECTS),
    ),
    Role(
        name="inference",
        publishes=("infer.*.*", "adapter.*.*", *_STAGE),
        listens=(_CANCELLED, "episode.forgotten.*", "dream.swapped.*", "query.routed.*"),
        serves=("status", "status.inference", "count", "adapters.>"),
        asks=("awaits.*",),
        reads=(*_TURN_STREAMS, JOBS, ADAPTERS, DREAMLOG),
        trims=(DEAD,),
        keeps_consumers=(*_TURN_STREAMS, JOBS, ADAPTERS, DREAMLOG),
    ),
    Role(
        name="cognition",
        publishes=("dissent.*.*", "negotiate.done.*", "answer.ready.*", "job.*.*", *_STAGE),
        listens=(_CANCELLED, "dissent.*.*"),
        serves=("status", "status.catfish", "status.negotiator", "status.antibias"),
        asks=("compare", "embed", "awaits.*"),
        reads=_TURN_STREAMS,
        trims=(DEAD,),
        keeps_consumers=_TURN_STREAMS,
    ),
    Role(
        name="services",
        publishes=("service.*.*",),
        publishes_elsewhere=("replays.>", "copies.>"),
        listens=(_CANCELLED,),
        serves=(
            *("status", "status.services", *_REGISTRATION, "services.trim", "replay.start", "replay.stop"),
            *("flow.fetch", "flow.snapshot", "flow.publish"),
        ),
        asks=("adapters.*",),
        reads=(EPISODES, SERVICES),
        trims=(EPISODES,),
        keeps_consumers=(EPISODES, SERVICES),
    ),
    Role(
        name="dream",
        publishes=("dream.*.*", "adapter.*.*", "job.*.*", *_STAGE),
        listens=(_CANCELLED,),
        serves=(
            *("status", "status.dream", "status.gates", "gates.judge"),
            *("dream.fetch", "dream.request", "dream.status", "dream.snapshot", "dream.swap"),
        ),
        asks=("status", "adapters.>", "services.fetch", "services.mark", "embed", "compare", "gates.judge", "awaits.*"),
        reads=(*_TURN_STREAMS, DREAMS, DREAMLOG, LATENTS, ADAPTERS),
        trims=(DEAD,),
        keeps_consumers=(*_TURN_STREAMS, DREAMS, DREAMLOG, LATENTS, ADAPTERS),
    ),
    Role(
        name="tenants",
        publishes=("query.received.*",),
        listens=(_CANCELLED, "*.*.*", TENANTS_REQUESTS),
        serves=("status", "status.tenants"),
        reads=(TURNS, ANSWERS, EPISODES),
        keeps_consumers=(TURNS, ANSWERS, EPISODES),
    ),
    Role(name="nerve-wml", listens=(_CANCELLED,), serves=("status", "status.nerve-wml", "advise.nerve-wml")),
    Role(name="kiki-flow", listens=(_CANCELLED,), serves=("status", "status.kiki-flow", "advise.kiki-flow")),
)
"""What the processes of the runtime may do. Everything else is refused to them."""


TRUSTED = Role(
    name="NAME",
    publishes=("query.received.*", "answer.taken.*", "turn.cancelled.*", "adapter.proposed.*"),
    listens=("*.*.*",),
    serves=("awaits.*",),
    listens_elsewhere=("replays.>", "copies.>"),
    asks=(
        *(*_REGISTRATION, "replay.start", "replay.stop", "flow.*", "dream.*", "adapters.>", "gates.judge"),
        *("route", "embed", "compare", "count", "memory.search", "memory.session", "memory.stats"),
        *("status", "status.*"),
    ),
)
"""A service from outside that is trusted with everybody's turns. It takes nothing from the record."""


def role_of(name: str) -> str:
    """The role of an agent, or of the facade: its own, else that of the process in which it runs by default. A guest is
    the owner: what it reads and publishes is not known here."""
    if any(role.name == name for role in ROLES):
        return name
    spec = find_spec(name)
    return OWNER if spec is None or spec.process is None else spec.process


def list_users(directory: Path, prefix: str, *more: str) -> Mapping[str, Permissions]:
    """The users of the embedded broker whose directory this is: the roles, the owner, and the users from outside who
    have a file, with ``more`` of them."""
    subjects = Subjects(prefix)
    served = {verb for role in ROLES for verb in role.serves} - {"awaits.*"}
    users = {role.name: permissions_of(role, subjects, served=served) for role in ROLES}
    users[OWNER] = owner_permissions(subjects)
    for user in (*list_outsiders(directory), *more):
        users[user] = _outsider_permissions(user, subjects, served)
    return users


def list_outsiders(directory: Path) -> list[str]:
    """The names of the users from outside that have a file."""
    own = {OWNER, *(role.name for role in ROLES)}
    return sorted(path.stem for path in seed_file(directory, OWNER).parent.glob("*.nk") if path.stem not in own)


def outsider_name(name: str, tenant: str | None) -> str:
    """The user's name, which says what it may do: that of a trusted service, or ``ask.<tenant>.<name>``.

    Raises:
        InvalidInput: a name cannot be a token of a subject, or is taken by the runtime.
    """
    for param, token in {"name": name, "tenant": tenant}.items():
        if token is not None and re.fullmatch(r"[A-Za-z0-9_@-]{1,64}", token) is None:
            raise InvalidInput(f"the {param} '{token}' may have letters, digits, '_', '-' and '@'.", param=param)
    if tenant is not None:
        return f"ask.{tenant}.{name}"
    if name in (OWNER, "ask", *(role.name for role in ROLES)):
        raise InvalidInput(f"'{name}' is a user of the runtime's own: take another name.", param="name")
    return name


def _outsider_permissions(user: str, subjects: Subjects, served: set[str]) -> Permissions:
    if user.startswith("ask."):
        _, tenant, name = user.split(".")
        return tenant_permissions(name, tenant, subjects)
    return permissions_of(replace(TRUSTED, name=user), subjects, served=served, is_agent=False)


def login_of(directory: Path, user: str) -> Login:
    """The login of the embedded broker's user; none where the broker of the directory asks for none."""
    path = seed_file(directory, user)
    return Login(nkey=path) if path.exists() else NO_LOGIN
