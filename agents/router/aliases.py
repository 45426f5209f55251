"""The model ids and what each stands for, from ``configs/aliases.yaml``."""

from functools import cache
from importlib.resources import files
from typing import Annotated

import msgspec
from msgspec import Meta

from agents.shared.domains import load_taxonomy
from schemas.chat import MAX_CANDIDATES
from schemas.errors import SetupError, UnknownModel
from schemas.findings import AdapterScale, Level

NICHE_PREFIX = "kiki-niche-"


class Alias(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a model id stands for.

    Attributes:
        intent: what the user of the alias wants; it is recorded in the route.
        description: one line for people.
        level: level of cognition when the request names none.
        deepen: whether a fast turn becomes full when its first domain profits from cognition.
        candidates: how many candidates a full turn decodes when the request names no number.
        recall: whether a fast or full turn recalls episodes.
        adapters: whether adapters may answer; without them the prompt is not even embedded.
        domains: the niche domains that may be routed to; empty means all.
        niche: the one domain that is always chosen.
        thinking: whether the model reasons before it answers, when it can, and shows it.
        max_tokens: length of an answer when the request names none; the facade's default when None.
        temperature: of the sampling when the request names none; the facade's default when None.
        adapter_scale: factor on what the adapters change when the request names none.
    """

    intent: str
    description: str
    level: Level
    deepen: bool = False
    candidates: Annotated[int, Meta(ge=1, le=MAX_CANDIDATES)] = 3
    recall: bool = True
    adapters: bool = True
    domains: tuple[str, ...] = ()
    niche: str | None = None
    thinking: bool = False
    max_tokens: Annotated[int, Meta(ge=1, le=32768)] | None = None
    temperature: Annotated[float, Meta(ge=0.0, le=2.0)] | None = None
    adapter_scale: AdapterScale = 1.0


class _NicheAlias(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    description: str
    level: Level
    deepen: bool = False
    candidates: Annotated[int, Meta(ge=1, le=MAX_CANDIDATES)] = 3
    adapter_scale: AdapterScale = 1.0


class AliasConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file: the named models, the pattern of the niche aliases, and two lists of niche domains.

    Attributes:
        cognition_domains: where a fast turn of an alias that says ``deepen`` becomes full.
        base_domains: where the base model answers, unless the alias names the domain.
    """

    cognition_domains: tuple[str, ...]
    base_domains: tuple[str, ...]
    models: dict[str, Alias]
    niche: _NicheAlias


@cache
def load_config() -> AliasConfig:
    """Read ``configs/aliases.yaml``.

    Raises:
        SetupError: the file does not say what it should, or names a domain that does not exist.
    """
    data = files("configs").joinpath("aliases.yaml").read_bytes()
    try:
        config = msgspec.yaml.decode(data, type=AliasConfig)
    except msgspec.DecodeError as error:
        raise SetupError(f"configs/aliases.yaml: {error}.") from error
    domain_names = {*config.cognition_domains, *config.base_domains}
    domain_names.update(domain for alias in config.models.values() for domain in alias.domains)
    if unknown := sorted(domain_names - set(load_taxonomy().niches)):
        raise SetupError(f"configs/aliases.yaml: there is no domain '{unknown[0]}'.", param="domains")
    return config


@cache
def load_aliases() -> dict[str, Alias]:
    """All model ids, in the order of the file, the niche aliases last.

    Raises:
        SetupError: ``configs/aliases.yaml`` is wrong.
    """
    config = load_config()
    niches = {
        f"{NICHE_PREFIX}{domain}": Alias(
            intent="niche",
            description=config.niche.description.format(domain=domain),
            level=config.niche.level,
            deepen=config.niche.deepen,
            candidates=config.niche.candidates,
            adapter_scale=config.niche.adapter_scale,
            niche=domain,
        )
        for domain in load_taxonomy().niches
    }
    return {**config.models, **niches}


def alias_of(model: str) -> Alias:
    """The alias of a model id.

    Raises:
        UnknownModel: there is none.
    """
    alias = load_aliases().get(model)
    if alias is None:
        raise UnknownModel(f"there is no model '{model}': GET /v1/models lists them.", param="model")
    return alias
