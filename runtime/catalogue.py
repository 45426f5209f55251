"""The models that clients see: each model id and what an answer of it is like, over the router's aliases."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from agents.router.aliases import load_aliases
from schemas.errors import SetupError, UnknownModel
from schemas.findings import Level

MAX_NAME = 256
"""Characters of a model's name that are looked at."""


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


class Catalogue(Mapping[str, ServedModel]):
    """The models by their ids, in the order in which they are listed.

    Attributes:
        default: the id of the model that answers a request which names none; the first one unless it is given.
        names: other names, each with the id of the model that answers to it.

    Raises:
        SetupError: the default or the model behind a name does not exist, or a name is a model's own.
    """

    def __init__(
        self, models: Mapping[str, ServedModel], *, names: Mapping[str, str] | None = None, default: str | None = None
    ) -> None:
        self._models = dict(models)
        self.names = dict(names or {})
        self.default = next(iter(self._models)) if default is None else default
        if self.default not in self._models:
            raise SetupError(f"there is no model '{self.default}' to be the default one.", param="default_model")
        self._ids = {model_id.casefold(): model_id for model_id in self._models}
        for name, model_id in self.names.items():
            self._add_name(name, model_id)

    def _add_name(self, name: str, model_id: str) -> None:
        if model_id not in self._models:
            raise SetupError(f"'{name}' stands for the model '{model_id}', which does not exist.", param="models")
        if not name.strip() or len(name) > MAX_NAME or name.casefold() in self._ids:
            raise SetupError(f"'{name}' is no other name for a model: it is empty, too long or taken.", param="models")
        self._ids[name.casefold()] = model_id

    def __getitem__(self, model_id: str) -> ServedModel:
        """The model of that very id."""
        return self._models[model_id]

    def __iter__(self) -> Iterator[str]:
        """The ids."""
        return iter(self._models)

    def __len__(self) -> int:
        """How many models there are."""
        return len(self._models)

    def resolve(self, name: str | None) -> tuple[str, ServedModel]:
        """The model that a request means, with its id.

        Letter case and a provider's prefix (``openai/``) do not matter; without a name it is the default one.

        Raises:
            UnknownModel: there is none of that name.
        """
        for spelling in spellings(name) if name is not None and name.strip() else (self.default.casefold(),):
            if (model_id := self._ids.get(spelling)) is not None:
                return model_id, self._models[model_id]
        raise UnknownModel(f"there is no model '{(name or '')[:MAX_NAME]}': GET /v1/models lists them.", param="model")


def spellings(name: str) -> tuple[str, ...]:
    """What a name may stand for: itself in small letters, and what is left of it without one prefix after the other.

    A name of more than :data:`MAX_NAME` characters stands for nothing.
    """
    parts = name.strip().casefold().split("/") if len(name) <= MAX_NAME else []
    return tuple("/".join(parts[start:]) for start in range(len(parts)))


def load_catalogue() -> Catalogue:
    """All models.

    Raises:
        SetupError: ``configs/aliases.yaml`` is wrong.
    """
    return Catalogue(
        {
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
    )
