"""Agents that are not this runtime's own: where they are found, who starts them, and where in a turn they stand.

A guest is a class that fits :class:`bus.agent.Agent`. It is named as ``package.module:Class``, by the entry point of an
installed distribution in the group ``kiki.agents``, or by a table of the settings::

    [agents.polish]
    class = "my_package.polish:Polish"  # 'kiki up' starts it; 'kiki run polish' does, too
    after = "router"                    # it reads what the router publishes, and the next stage reads what it publishes

    [agents.router]
    external = true                     # one runs elsewhere: /ready expects it on the bus, 'kiki up' starts none

The rest of such a table are the guest's own settings: a class that has a ``Settings`` (a msgspec struct) is made with
one, any other without arguments.
"""

import importlib
import importlib.metadata
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from bus import topology
from runtime.agents import (
    FACADE,
    PLACEMENT,
    AgentPlacement,
    all_agents,
    default_agents,
    find_spec,
    read_settings,
    stage_outputs,
    turn_agents,
)
from runtime.settings import Settings
from schemas.errors import SetupError

if TYPE_CHECKING:
    from bus.agent import Agent

GROUP = "kiki.agents"
"""The group of entry points."""

_NOUNS = topology.nouns()
"""Nouns of the runtime's own subjects."""


def read_placement(name: str, settings: Settings) -> AgentPlacement:
    """Where the agent of that name stands.

    Raises:
        SetupError: a value is wrong; the message names it.
    """
    table = {key: value for key, value in settings.agents.get(name, {}).items() if key in PLACEMENT}
    try:
        placement = msgspec.convert(table, AgentPlacement, strict=False)
    except msgspec.ValidationError as error:
        raise SetupError(f"settings of '{name}': {error}.", param=f"agents.{name}") from error
    if placement.reference and name in (*all_agents(), FACADE):
        raise SetupError(
            f"'{name}' is this runtime's own: set 'agents.{name}.external = true' and run yours with "
            f"'kiki run {placement.reference}', or give yours another name.",
            param=f"agents.{name}.class",
        )
    return placement


def list_guests(settings: Settings) -> dict[str, AgentPlacement]:
    """The agents that the settings know beside this runtime's own, in the order of the file."""
    placements = {name: read_placement(name, settings) for name in settings.agents}
    own = (*all_agents(), FACADE)
    return {
        name: placement for name, placement in placements.items() if name not in own and placement != AgentPlacement()
    }


def list_installed() -> tuple[str, ...]:
    """The guests that installed distributions bring, by the names of their entry points."""
    return tuple(sorted({entry.name for entry in importlib.metadata.entry_points(group=GROUP)}))


def list_known(settings: Settings) -> tuple[str, ...]:
    """The names that ``kiki run`` takes and tables may have: this runtime's own, the facade, and the guests."""
    return (*all_agents(), FACADE, *list_guests(settings), *list_installed())


def refuse_strangers(settings: Settings) -> None:
    """Raise a SetupError for a table of an agent that nobody knows, so that a typo is no silence."""
    known = set(list_known(settings))
    if strangers := sorted(set(settings.agents) - known):
        path = f"agents.{strangers[0]}"
        raise SetupError(
            f"setting '{path}' does not exist: choose from {', '.join(sorted(known))}; an agent of your own has "
            "'class', or 'external = true'.",
            param=path,
        )


def find_reference(name: str, settings: Settings) -> str:
    """The guest's ``package.module:Class``; empty for an agent of this runtime's own, or of nobody."""
    if ":" in name:
        return name
    if find_spec(name) is not None:
        return ""
    if reference := read_placement(name, settings).reference:
        return reference
    return next((entry.value for entry in importlib.metadata.entry_points(group=GROUP, name=name)), "")


def build_guest(name: str, reference: str, settings: Settings) -> "Agent":
    """Make the guest that ``reference`` names; ``name`` is what it was asked for as.

    Raises:
        SetupError: it cannot be imported or made, or is no agent; the message says why.
    """
    module_name, _, attribute = reference.partition(":")
    try:
        module = importlib.import_module(module_name)
    except (ImportError, AttributeError, ValueError) as error:
        raise SetupError(
            f"the agent {reference} cannot be imported ({error}): give package.module:Class, and start where "
            "'python -c \"import package.module\"' works.",
            param="agent",
        ) from error
    if (kind := getattr(module, attribute, None)) is None:
        classes = [part for part in vars(module).values() if getattr(part, "__module__", "") == module_name]
        there = [part.__name__ for part in classes if hasattr(part, "handlers")]
        raise SetupError(
            f"there is no '{attribute}' in {module_name}: it has {', '.join(there) or 'no agents'}.", param="agent"
        )
    own_name = str(getattr(kind, "name", "") or name)
    struct: Any = getattr(kind, "Settings", None)
    try:
        agent = kind() if struct is None else kind(read_settings(struct, own_name, settings, {}))
    except TypeError as error:
        raise SetupError(
            f"{reference} cannot be made: {error}. A guest is made without arguments, or with its 'Settings'.",
            param="agent",
        ) from error
    if missing := [part for part in ("name", "open", "handlers", "endpoints", "status") if not hasattr(agent, part)]:
        raise SetupError(
            f"{reference} is no agent, for it has no {', '.join(missing)}: bus.agent.BaseAgent has all but the name.",
            param="agent",
        )
    if ":" not in name and agent.name != name:
        raise SetupError(
            f"'{name}' is to start {reference}, whose name is '{agent.name}': give both one name, for the settings, "
            "/ready and the stage know it by that.",
            param=f"agents.{name}",
        )
    return agent  # type: ignore[no-any-return]


def list_started(settings: Settings) -> tuple[str, ...]:
    """The agents that ``kiki up`` starts by default: this runtime's own, and guests with a class; none that is external
    or left out.

    Raises:
        SetupError: ``without`` names no agent.
    """
    guests = list_guests(settings)
    known = (*all_agents(), *guests)
    if unknown := sorted(set(settings.without) - set(known)):
        raise SetupError(
            f"there is no agent '{unknown[0]}' to leave out: choose from {', '.join(known)}.", param="without"
        )
    names = (*default_agents(), *(name for name, placement in guests.items() if placement.reference))
    return tuple(name for name in names if name not in settings.without and not read_placement(name, settings).external)


def list_expected(settings: Settings) -> tuple[str, ...]:
    """The agents that ``/ready`` waits for: all without which no turn is answered in full, wherever they run.

    Of those that are left out only the ones for whose stage a turn waits: somebody else must run them.
    """
    guests = list_guests(settings)
    placed = tuple(name for name, placement in guests.items() if placement.external or placement.after)
    own_external = tuple(
        name for name in all_agents() if name not in turn_agents() and read_placement(name, settings).external
    )
    return tuple(
        name
        for name in (*turn_agents(), *own_external, *placed)
        if name not in settings.without or read_placement(name, settings).external or _is_awaited(name)
    )


def list_external(settings: Settings) -> tuple[str, ...]:
    """The agents that run elsewhere."""
    return tuple(name for name in settings.agents if read_placement(name, settings).external)


def _is_awaited(name: str) -> bool:
    spec = find_spec(name)
    return spec is not None and any(stage.position == "awaited" for stage in spec.stages)


def chain_guests(settings: Settings) -> Mapping[str, tuple[str, ...]]:
    """The guests that come after a stage, by the event that it publishes, each after the one before it.

    Raises:
        SetupError: a guest comes after nobody, or two after the same one, or its name is taken.
    """
    following: dict[str, str] = {}
    for name, placement in list_guests(settings).items():
        if not placement.after:
            continue
        param = f"agents.{name}.after"
        if re.fullmatch(r"[a-z0-9_-]+", name) is None or name in _NOUNS:
            raise SetupError(
                f"'{name}' cannot be the noun of a subject: take small letters, digits and dashes, and none of "
                f"{', '.join(sorted(_NOUNS))}.",
                param=param,
            )
        if placement.after in following:
            raise SetupError(
                f"'{following[placement.after]}' and '{name}' both come after '{placement.after}': let one come after "
                "the other.",
                param=param,
            )
        following[placement.after] = name
    chains = {event: _follow(stage, following) for stage, event in stage_outputs().items() if stage in following}
    if lost := sorted(set(following.values()) - {name for chain in chains.values() for name in chain}):
        raise SetupError(
            f"'{lost[0]}' comes after no stage: choose from {', '.join(stage_outputs())}, or a guest after one.",
            param=f"agents.{lost[0]}.after",
        )
    return chains


def _follow(stage: str, following: Mapping[str, str]) -> tuple[str, ...]:
    chain: list[str] = []
    while (stage := following.get(stage, "")) and stage not in chain:
        chain.append(stage)
    return tuple(chain)
