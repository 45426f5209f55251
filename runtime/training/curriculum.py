"""The curriculum: the order in which the domains are trained, foundations first, then coding, then niches."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from runtime.training.recipes import recipes_folder
from schemas.errors import SetupError

Kind = Literal["foundations", "coding", "niches"]

KINDS: tuple[Kind, ...] = ("foundations", "coding", "niches")
"""Kinds of phases, in the order in which they are trained."""


class Phase(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Domains that are trained one after the other, each for so many ``iterations``."""

    name: str
    kind: Kind
    iterations: Annotated[int, Meta(ge=1)]
    domains: tuple[str, ...] = ()


PHASES = (
    Phase(name="foundations", kind="foundations", iterations=1000),
    Phase(name="coding-core", kind="coding", iterations=500),
    Phase(name="coding-secondary", kind="coding", iterations=500),
    Phase(name="technical", kind="niches", iterations=200),
    Phase(name="applications", kind="niches", iterations=150),
    Phase(name="complements", kind="niches", iterations=100),
    Phase(name="younger", kind="niches", iterations=100),
)
"""The phases of the lab's ``configs/micro_kiki/brainstacks.yaml`` in its order, the three younger domains last. 1000,
500 and 100 to 200 iterations are the lab's; which niche has how many of the 100 to 200 is chosen here."""


def curriculum_file() -> Path:
    """``configs/lora/curriculum.yaml``."""
    return recipes_folder() / "curriculum.yaml"


def load_curriculum(path: Path | None = None) -> tuple[Phase, ...]:
    """Read the curriculum; the shipped one by default.

    Raises:
        SetupError: the file is not a list of phases; the message names file and field.
    """
    path = path or curriculum_file()
    try:
        return msgspec.yaml.decode(path.read_bytes(), type=tuple[Phase, ...])
    except (OSError, msgspec.DecodeError) as error:
        raise SetupError(f"{path}: {error}.", param="curriculum") from error


def order_of(phases: tuple[Phase, ...]) -> tuple[str, ...]:
    """All domains in the order of training."""
    return tuple(domain for phase in phases for domain in phase.domains)
