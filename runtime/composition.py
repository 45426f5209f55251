"""Builds each agent from the settings. The only module that knows all rooms."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from bus.agent import Agent
from bus.broker import monitor_of
from bus.connection import Bus, BusSettings
from runtime.settings import Settings
from schemas.errors import SetupError

AGENTS = ("router", "memory", "inference", "catfish", "negotiator", "antibias")
"""The six agents of a turn, in its order; memory is the seventh stage too, when it writes the episode."""

TOGETHER = ("catfish", "negotiator", "antibias")
"""Agents that own neither a model nor a store. One process holds them: a turn goes through one after the other, and
what the first has made warm serves the next (docs/architecture.md has the figures)."""

COGNITION = "cognition"
"""The name of the process of :data:`TOGETHER`; one of its agents that runs without the others has its own name."""

BESIDE = ("services", "dream")
"""Agents beside the turn: it is answered without them."""

FACADE = "facade"

S = TypeVar("S", bound=msgspec.Struct)


def processes(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The agents of each process, by the process's name: one each, but for those of :data:`TOGETHER`."""
    groups: dict[str, tuple[str, ...]] = {}
    share_process = sum(name in TOGETHER for name in names) > 1
    for name in names:
        process = COGNITION if share_process and name in TOGETHER else name
        groups[process] = (*groups.get(process, ()), name)
    return groups


def bus_settings(settings: Settings) -> BusSettings:
    """How to reach the broker."""
    return BusSettings(url=settings.url(), prefix=settings.prefix, replicas=settings.replicas)


def agent(name: str, settings: Settings) -> Agent:
    """Build an agent; heavy parts are imported only for the agent that needs them.

    Raises:
        SetupError: there is no agent of that name, or a setting of it is wrong.
    """
    if name not in _BUILDERS:
        raise SetupError(f"there is no agent '{name}': choose from {', '.join((*_BUILDERS, FACADE))}.", param="agent")
    return _BUILDERS[name](settings)


async def serve_facade(bus: Bus, settings: Settings) -> None:
    """Run the HTTP facade until cancelled."""
    from runtime.catalogue import load_catalogue
    from runtime.facade import FacadeSettings, serve

    defaults = {
        "host": settings.host,
        "port": settings.port,
        "api_keys": settings.api_keys,
        "admin_key": settings.admin_key,
        "turn_timeout": settings.turn_timeout,
        "monitor_url": monitor_of(settings.data_dir / "nats", settings.nats_port) if settings.nats is None else None,
    }
    await serve(bus, _settings(FacadeSettings, FACADE, settings, defaults), load_catalogue())


def _router(settings: Settings) -> Agent:
    from agents.router.agent import RouterAgent
    from agents.router.settings import RouterSettings
    from runtime import advisors
    from runtime.models import prepare, router_checkpoint

    replacements: dict[str, Any] = {"advisors": advisors.find_enabled(settings)}
    if (checkpoint := settings.agents.get("router", {}).get("checkpoint")) is not None:
        replacements["checkpoint"] = router_checkpoint(str(checkpoint))
    defaults = {"embedder": prepare(settings.embedder)}
    return RouterAgent(_settings(RouterSettings, "router", settings, defaults, replacements=replacements))


def _nerve_wml(settings: Settings) -> Agent:
    from agents.advisors import nerve
    from agents.advisors.agent import AdvisorAgent
    from agents.advisors.settings import NerveWmlSettings
    from agents.router.domains import load_taxonomy
    from runtime import advisors

    defaults = advisors.read_environment(nerve.NAME, domains=load_taxonomy().niches)
    nerve_settings = _settings(NerveWmlSettings, nerve.NAME, settings, defaults)
    return AdvisorAgent(nerve.NAME, lambda: nerve.load(nerve_settings))


def _kiki_flow(settings: Settings) -> Agent:
    from agents.advisors import flow
    from agents.advisors.agent import AdvisorAgent
    from agents.advisors.settings import KikiFlowSettings
    from agents.services.stacks import load_stacks
    from runtime import advisors

    flow_settings = _settings(KikiFlowSettings, flow.NAME, settings, advisors.read_environment(flow.NAME, domains=()))
    return AdvisorAgent(flow.NAME, lambda: flow.load(flow_settings, spread=load_stacks().spread))


def _memory(settings: Settings) -> Agent:
    from agents.memory.agent import MemoryAgent
    from agents.memory.settings import MemorySettings
    from runtime.models import prepare

    defaults = {"data_dir": settings.data_dir / "memory", "tokenizer": prepare(settings.model) / "tokenizer.json"}
    return MemoryAgent(_settings(MemorySettings, "memory", settings, defaults))


def _inference(settings: Settings) -> Agent:
    from agents.inference.agent import InferenceAgent
    from agents.inference.settings import InferenceSettings

    if settings.agents.get("inference", {}).get("engine") == "openai":
        defaults: dict[str, Any] = {"model_name": _upstream_model(settings)}
    else:
        defaults = _local_model(settings)
    return InferenceAgent(_settings(InferenceSettings, "inference", settings, defaults))


def _local_model(settings: Settings) -> dict[str, Any]:
    from runtime.models import digest, prepare

    model = prepare(settings.model)
    return {
        "model": model,
        "model_name": settings.model,
        "model_digest": digest(model),
        "adapters": settings.adapters,
        "journal": settings.data_dir / "inference.json",
    }


def _upstream_model(settings: Settings) -> str:
    """The model's name at the upstream; the agent's settings say what is missing or wrong there."""
    upstream = settings.agents["inference"].get("upstream")
    return str(upstream.get("model", "")) if isinstance(upstream, dict) else ""


def _catfish(settings: Settings) -> Agent:
    from agents.catfish.agent import CatfishAgent
    from agents.catfish.settings import CatfishSettings

    return CatfishAgent(_settings(CatfishSettings, "catfish", settings, {}))


def _negotiator(settings: Settings) -> Agent:
    from agents.negotiator.agent import NegotiatorAgent
    from agents.negotiator.settings import NegotiatorSettings

    return NegotiatorAgent(_settings(NegotiatorSettings, "negotiator", settings, {}))


def _antibias(settings: Settings) -> Agent:
    from agents.antibias.agent import AntibiasAgent
    from agents.antibias.settings import AntibiasSettings

    return AntibiasAgent(_settings(AntibiasSettings, "antibias", settings, {}))


def _services(settings: Settings) -> Agent:
    from agents.services.agent import ServicesAgent
    from agents.services.settings import ServicesSettings

    return ServicesAgent(_settings(ServicesSettings, "services", settings, {}))


def _dream(settings: Settings) -> Agent:
    from agents.dream.agent import DreamAgent
    from agents.dream.settings import DreamSettings

    return DreamAgent(_settings(DreamSettings, "dream", settings, {}))


_BUILDERS: dict[str, Callable[[Settings], Agent]] = {
    "router": _router,
    "memory": _memory,
    "inference": _inference,
    "catfish": _catfish,
    "negotiator": _negotiator,
    "antibias": _antibias,
    "services": _services,
    "dream": _dream,
    "nerve-wml": _nerve_wml,
    "kiki-flow": _kiki_flow,
}


def _settings(
    kind: type[S],
    name: str,
    settings: Settings,
    defaults: dict[str, Any],
    *,
    replacements: dict[str, Any] | None = None,
) -> S:
    """An agent's settings: ``[agents.<name>]`` of the file over the composition's ``defaults``.

    ``replacements`` are values of the file that the composition has turned into something else (a hub id into a
    folder); they win over the file.
    """
    overrides = settings.agents.get(name, {})
    field_names = {field.name for field in msgspec.structs.fields(kind)}
    unknown = sorted(set(overrides) - field_names)
    if unknown:
        raise SetupError(
            f"setting 'agents.{name}.{unknown[0]}' does not exist: choose from {', '.join(sorted(field_names))}.",
            param=f"agents.{name}.{unknown[0]}",
        )
    try:
        values = {**defaults, **overrides, **(replacements or {})}
        return msgspec.convert(values, kind, strict=False, dec_hook=_path, builtin_types=())
    except msgspec.ValidationError as error:
        raise SetupError(f"settings of '{name}': {error}.", param=f"agents.{name}") from error


def _path(kind: type[Any], value: Any) -> Any:
    """msgspec's hook for types that it does not know; it asks for NotImplementedError on any other."""
    if kind is Path:
        return Path(value)
    raise NotImplementedError(kind)
