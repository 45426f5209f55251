"""The registry of agents: what runs, in which process, and at which place in a turn. Everything else is derived.

From it follow the processes, the agents that ``/ready``, ``kiki doctor`` and the benches wait for, the stages of the
waterfall, what ``kiki run`` takes, and the tests that go through all agents.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import msgspec

from schemas.errors import SetupError

if TYPE_CHECKING:  # runtime.child reads ``unused`` here before any large package may be imported
    from bus.agent import Agent
    from runtime.settings import Settings

S = TypeVar("S", bound=msgspec.Struct)

Position = Literal["awaited", "beside", "after"]
"""``awaited``: the client waits for the stage. ``beside``: another stage waits for it while it works itself.
``after``: the stage works after the answer."""

Need = Literal["turn", "runtime", "choice"]
"""Who needs an agent: every turn; everybody who starts the whole runtime; only those who turn it on in the settings."""


@dataclass(frozen=True)
class Stage:
    """A place in the turn: the name of its durable consumer and of its timing, the event that it reads and, where a
    guest may come after it, the one that it publishes."""

    name: str
    position: Position = "awaited"
    reads: str = ""
    publishes: str = ""


@dataclass(frozen=True, kw_only=True)
class AgentSpec:
    """One agent.

    Attributes:
        name: what ``kiki run`` calls it, and what it reports as.
        build: makes the agent from the settings; imports its heavy parts itself.
        stages: its places in the turn; empty for an agent that has no stage.
        process: the process that it shares with other agents by default; None gives it one of its own.
        need: ``/ready`` waits for agents with ``turn``; ``kiki up`` starts those and ``runtime``, and ``choice`` only
            when the settings turn it on.
        unused: packages that the agent does not use, though its libraries import them where they are installed.
    """

    name: str
    build: Callable[["Settings"], "Agent"]
    stages: tuple[Stage, ...] = ()
    process: str | None = None
    need: Need = "turn"
    unused: tuple[str, ...] = ()


def find_spec(name: str) -> AgentSpec | None:
    """The agent of that name, None without one."""
    return next((spec for spec in REGISTRY if spec.name == name), None)


def all_agents() -> tuple[str, ...]:
    """The names of all agents."""
    return tuple(spec.name for spec in REGISTRY)


def default_agents() -> tuple[str, ...]:
    """The agents that ``kiki up`` starts whatever the settings say."""
    return tuple(spec.name for spec in REGISTRY if spec.need != "choice")


def turn_agents() -> tuple[str, ...]:
    """The agents without which no turn is answered in full."""
    return tuple(spec.name for spec in REGISTRY if spec.need == "turn")


def turn_stages() -> tuple[Stage, ...]:
    """The stages in the order of a turn, which is the registry's; those after the answer come last."""
    stages = [stage for spec in REGISTRY for stage in spec.stages]
    return tuple(sorted(stages, key=lambda stage: stage.position == "after"))


def stage_outputs() -> dict[str, str]:
    """The stages after which a guest may come, with the event that each publishes."""
    return {stage.name: stage.publishes for stage in turn_stages() if stage.publishes}


def guest_readers() -> dict[str, str]:
    """The stages before which a guest may come, with the event that each reads without one."""
    published = stage_outputs().values()
    return {stage.name: stage.reads for stage in turn_stages() if stage.reads in published}


MOVED_SETTINGS = {
    "agents.router.embedder": "agents.embedder.model",
    **{
        f"agents.router.{name}": f"agents.embedder.{name}"
        for name in ("batch_wait", "batch_size", "cache_size", "max_tokens", "threads", "ahead")
    },
}
"""The old names of settings that were moved, each with its new name."""


class AgentPlacement(msgspec.Struct, frozen=True, kw_only=True):
    """What ``[agents.<name>]`` says of the agent beside its own settings (:mod:`runtime.guests`)."""

    reference: str = msgspec.field(default="", name="class")
    external: bool = False
    after: str = ""


PLACEMENT = frozenset(field.encode_name for field in msgspec.structs.fields(AgentPlacement))
"""The names that no agent has as settings of its own."""


def read_settings(
    kind: type[S],
    name: str,
    settings: "Settings",
    defaults: dict[str, Any],
    *,
    replacements: dict[str, Any] | None = None,
) -> S:
    """An agent's settings: ``[agents.<name>]`` of the file over the composition's ``defaults``.

    ``replacements`` are values of the file that the composition has turned into something else (a hub id into a
    folder); they win over the file.

    Raises:
        SetupError: a setting does not exist, or its value is wrong.
    """
    table = _read_table(kind, name, settings)
    return _convert({**defaults, **table, **(replacements or {})}, kind, name)


def check_settings(name: str, settings: "Settings") -> None:
    """Check ``[agents.<name>]`` of an agent of the registry, or of the facade, as far as the file alone tells it.

    Raises:
        SetupError: as :func:`read_settings`.
    """
    kind = find_settings_class(name)
    table = _read_table(kind, name, settings)
    fields = msgspec.structs.fields(kind)
    if lacking := [field.name for field in fields if field.required and field.name not in table]:
        rest = [(name, Any, None) for name in lacking]  # which the composition has
        kind = msgspec.defstruct(kind.__name__, rest, bases=(kind,), frozen=True, kw_only=True)
    _convert(table, kind, name)


def find_settings_class(name: str) -> type[msgspec.Struct]:
    """The settings' class of an agent or of the facade: ``NerveWmlSettings`` of ``nerve-wml``, beside its code.

    Raises:
        LookupError: there is none.
    """
    import agents

    class_name = "".join(part.capitalize() for part in name.split("-")) + "Settings"
    folders = (file.parent.name for file in Path(agents.__file__).parent.glob("*/settings.py"))
    own_first = sorted(folders, key=lambda folder: (folder != name, folder))
    modules = ["runtime.facade.settings"] if name == FACADE else [f"agents.{folder}.settings" for folder in own_first]
    for module in modules:
        kind: type[msgspec.Struct] | None = getattr(import_module(module), class_name, None)
        if kind is not None:
            return kind
    raise LookupError(f"there is no {class_name}")


def _read_table(kind: type[msgspec.Struct], name: str, settings: "Settings") -> dict[str, Any]:
    """The agent's own settings in the file; refuses those that it does not have."""
    table = {key: value for key, value in settings.agents.get(name, {}).items() if key not in PLACEMENT}
    field_names = {field.name for field in msgspec.structs.fields(kind)}
    if unknown := sorted(set(table) - field_names):
        path = f"agents.{name}.{unknown[0]}"
        moved = f" It moved to '{MOVED_SETTINGS[path]}'." if path in MOVED_SETTINGS else ""
        raise SetupError(
            f"setting '{path}' does not exist: choose from {', '.join(sorted(field_names))}.{moved}", param=path
        )
    return table


def _convert(values: dict[str, Any], kind: type[S], name: str) -> S:
    try:
        return msgspec.convert(values, kind, strict=False, dec_hook=_decode_path, builtin_types=())
    except msgspec.ValidationError as error:
        raise SetupError(f"settings of '{name}': {error}.", param=f"agents.{name}") from error


def _decode_path(kind: type[Any], value: Any) -> Any:
    """msgspec's hook for types that it does not know; for any but Path it must raise NotImplementedError."""
    if kind is Path:
        return Path(value)
    raise NotImplementedError(kind)


def _build_router(settings: "Settings") -> "Agent":
    from agents.router.agent import RouterAgent
    from agents.router.settings import RouterSettings
    from runtime import advisors
    from runtime.models import router_checkpoint

    replacements: dict[str, Any] = {"advisors": advisors.find_enabled(settings)}
    if (checkpoint := settings.agents.get("router", {}).get("checkpoint")) is not None:
        replacements["checkpoint"] = router_checkpoint(str(checkpoint))
    return RouterAgent(read_settings(RouterSettings, "router", settings, {}, replacements=replacements))


def _build_embedder(settings: "Settings") -> "Agent":
    from agents.embedder.agent import EmbedderAgent
    from agents.embedder.settings import EmbedderSettings
    from runtime.models import prepare

    path = Path(settings.embedder)
    defaults: dict[str, Any] = {
        "model": prepare(settings.embedder),
        "model_name": path.name if path.is_dir() else settings.embedder,
    }
    if (own := own_memory_embedder(settings)) is not None:
        defaults["memory_model"] = prepare(own)
    return EmbedderAgent(read_settings(EmbedderSettings, "embedder", settings, defaults))


def own_memory_embedder(settings: "Settings") -> str | None:
    """The embedder that ``[agents.memory]`` names, where that is not the router's; None without one."""
    name = str(settings.agents.get("memory", {}).get("embedder", ""))
    return None if name in ("", settings.embedder) else name


def _build_memory(settings: "Settings") -> "Agent":
    from agents.memory.agent import MemoryAgent
    from agents.memory.settings import MemorySettings
    from runtime.models import prepare, vector_size

    defaults: dict[str, Any] = {
        "data_dir": settings.data_dir / "memory",
        "tokenizer": prepare(settings.model) / "tokenizer.json",
        "router_embedder": settings.embedder,
        "disk_reserve": settings.disk_reserve,
    }
    if (own := own_memory_embedder(settings)) is not None and (size := vector_size(prepare(own))) is not None:
        defaults["vector_size"] = size
    return MemoryAgent(read_settings(MemorySettings, "memory", settings, defaults))


def _build_inference(settings: "Settings") -> "Agent":
    from agents.inference.agent import InferenceAgent
    from agents.inference.settings import InferenceSettings

    if settings.agents.get("inference", {}).get("engine") == "openai":
        defaults: dict[str, Any] = {"model_name": _upstream_model(settings)}
    else:
        defaults = _local_model(settings)
    return InferenceAgent(read_settings(InferenceSettings, "inference", settings, defaults))


def _local_model(settings: "Settings") -> dict[str, Any]:
    from runtime.models import digest, int8_folder, prepare

    model = prepare(settings.model)
    model_digest = digest(model)
    return {
        "model": model,
        "model_name": settings.model,
        "model_digest": model_digest,
        "int8_folder": int8_folder(model, model_digest),
        "adapters": settings.adapters,
        "journal": settings.data_dir / "inference.json",
    }


def _upstream_model(settings: "Settings") -> str:
    """The model's name at the upstream server; empty when it is missing, which the agent's own settings then refuse."""
    upstream = settings.agents["inference"].get("upstream")
    return str(upstream.get("model", "")) if isinstance(upstream, dict) else ""


def _build_catfish(settings: "Settings") -> "Agent":
    from agents.catfish.agent import CatfishAgent
    from agents.catfish.settings import CatfishSettings

    return CatfishAgent(read_settings(CatfishSettings, "catfish", settings, {}))


def _build_negotiator(settings: "Settings") -> "Agent":
    from agents.negotiator.agent import NegotiatorAgent
    from agents.negotiator.settings import NegotiatorSettings

    return NegotiatorAgent(read_settings(NegotiatorSettings, "negotiator", settings, {}))


def _build_antibias(settings: "Settings") -> "Agent":
    from agents.antibias.agent import AntibiasAgent
    from agents.antibias.settings import AntibiasSettings

    return AntibiasAgent(read_settings(AntibiasSettings, "antibias", settings, {}))


def _build_services(settings: "Settings") -> "Agent":
    from agents.services.agent import ServicesAgent
    from agents.services.settings import ServicesSettings

    return ServicesAgent(read_settings(ServicesSettings, "services", settings, {}))


def _build_tenants(settings: "Settings") -> "Agent":
    from agents.tenants.agent import TenantsAgent
    from agents.tenants.settings import TenantsSettings

    return TenantsAgent(read_settings(TenantsSettings, "tenants", settings, {}))


def _build_dream(settings: "Settings") -> "Agent":
    from agents.dream.agent import DreamAgent
    from agents.dream.settings import DreamSettings

    return DreamAgent(read_settings(DreamSettings, "dream", settings, {}))


def _build_gates(settings: "Settings") -> "Agent":
    from agents.gates.agent import GatesAgent
    from agents.gates.settings import GatesSettings

    return GatesAgent(read_settings(GatesSettings, "gates", settings, {}))


def _build_nerve_wml(settings: "Settings") -> "Agent":
    from agents.advisors import nerve
    from agents.advisors.agent import AdvisorAgent
    from agents.advisors.settings import NerveWmlSettings
    from agents.shared.domains import load_taxonomy
    from runtime import advisors

    defaults = advisors.read_environment(nerve.NAME, domains=load_taxonomy().niches)
    nerve_settings = read_settings(NerveWmlSettings, nerve.NAME, settings, defaults)
    return AdvisorAgent(nerve.NAME, lambda: nerve.load(nerve_settings))


def _build_kiki_flow(settings: "Settings") -> "Agent":
    from agents.advisors import flow
    from agents.advisors.agent import AdvisorAgent
    from agents.advisors.settings import KikiFlowSettings
    from agents.services.stacks import load_stacks
    from runtime import advisors

    flow_settings = read_settings(
        KikiFlowSettings, flow.NAME, settings, advisors.read_environment(flow.NAME, domains=())
    )
    return AdvisorAgent(flow.NAME, lambda: flow.load(flow_settings, spread=load_stacks().spread))


FACADE = "facade"
"""The name of the HTTP facade. It is no agent, but a process runs it under this name like one."""

RICH = ("rich",)
"""Unused by agents that print no tables; structlog and httpx import it."""

RICH_AND_TRITON = (*RICH, "triton")
"""Unused by agents that run torch on a CPU; torch imports triton, which compiles for GPUs."""

TORCH = ("torch",)
"""Unused by the worker; transformers, which reads its tokenizer, imports torch. mlx-lm needs rich, so it stays."""

_ROUTER = Stage("router", reads="query.received", publishes="query.routed")

REGISTRY: tuple[AgentSpec, ...] = (
    AgentSpec(name="router", build=_build_router, stages=(_ROUTER,), process="router", unused=RICH_AND_TRITON),
    AgentSpec(name="embedder", build=_build_embedder, process="router", unused=RICH_AND_TRITON),
    AgentSpec(
        name="memory",
        build=_build_memory,
        stages=(Stage("memory", reads="query.routed", publishes="recall.done"), Stage("memory-write", "after")),
        unused=RICH,
    ),
    AgentSpec(
        name="inference",
        build=_build_inference,
        stages=(Stage("inference", reads="recall.done", publishes="infer.done"),),
        unused=TORCH,
    ),
    AgentSpec(
        name="catfish",
        build=_build_catfish,
        stages=(Stage("catfish", "beside", reads="infer.done"),),
        process="cognition",
        unused=RICH,
    ),
    AgentSpec(
        name="negotiator",
        build=_build_negotiator,
        stages=(Stage("negotiator", reads="infer.done", publishes="negotiate.done"),),
        process="cognition",
        unused=RICH,
    ),
    AgentSpec(
        name="antibias",
        build=_build_antibias,
        stages=(Stage("antibias", reads="negotiate.done"),),
        process="cognition",
        unused=RICH,
    ),
    AgentSpec(name="services", build=_build_services, process="services", need="runtime", unused=RICH),
    AgentSpec(name="tenants", build=_build_tenants, process="services", need="runtime", unused=RICH),
    AgentSpec(name="dream", build=_build_dream, process="dream", need="runtime", unused=RICH),
    AgentSpec(name="gates", build=_build_gates, process="dream", need="runtime", unused=RICH),
    AgentSpec(name="nerve-wml", build=_build_nerve_wml, need="choice"),
    AgentSpec(name="kiki-flow", build=_build_kiki_flow, need="choice"),
)
"""All agents. Those with stages stand in the order of a turn."""


def replace_agent(name: str, build: "Callable[[Settings], Agent]") -> None:
    """From now on this process builds the agent ``name`` with ``build``, such as a scripted worker."""
    global REGISTRY
    REGISTRY = tuple(replace(spec, build=build) if spec.name == name else spec for spec in REGISTRY)
