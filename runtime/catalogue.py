"""The models that clients see: each model id and what an answer of it is like, over the router's aliases."""

from collections.abc import Mapping
from dataclasses import dataclass

from agents.router.aliases import load_aliases
from schemas.findings import Level


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """What a client gets under one model id, when its request names nothing else.

    Attributes:
        description: one line for people.
        level: level of cognition.
        thinking: whether the model reasons before it answers, when it can, and shows it.
        max_tokens: length of an answer; the facade's default when None.
        temperature: of an answer; the facade's default when None.
        niche: the domain whose adapter the model id names.
    """

    description: str
    level: Level
    thinking: bool = False
    max_tokens: int | None = None
    temperature: float | None = None
    niche: str | None = None


Catalogue = Mapping[str, ServedModel]
"""The models by their ids, in the order in which they are listed."""


def load_catalogue() -> Catalogue:
    """All models.

    Raises:
        SetupError: ``configs/aliases.yaml`` is wrong.
    """
    return {
        model_id: ServedModel(
            description=alias.description,
            level=alias.level,
            thinking=alias.thinking,
            max_tokens=alias.max_tokens,
            temperature=alias.temperature,
            niche=alias.niche,
        )
        for model_id, alias in load_aliases().items()
    }
