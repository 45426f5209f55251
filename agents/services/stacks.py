"""kiki-flow's 32 stacks and the 35 niche domains in them, from ``configs/stacks.yaml``."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import msgspec

from schemas.errors import SetupError
from schemas.flow import STACKS

_NUMBERED = re.compile(r"stack[-_ ]?(?P<number>[0-9]{1,2})(?:[-_](?P<domain>.+))?")


@dataclass(frozen=True)
class Stacks:
    """The domains of each stack, in the order of the stacks, and (``outputs``) the domains of each router output."""

    domains: tuple[tuple[str, ...], ...]
    outputs: Mapping[str, tuple[str, ...]]

    def of(self, domain: str) -> int | None:
        """The index of a domain's stack; None when it has none."""
        return next((place for place, names in enumerate(self.domains) if domain in names), None)

    def find(self, name: str) -> int | None:
        """The index of the stack that a name means; None when it means none.

        It is a domain of the stack, ``stack_05`` with the index, or both: a domain behind a number counts, as others
        number the stacks in another order.
        """
        match = _NUMBERED.fullmatch(name.lower())
        if match is None or match["domain"]:
            return self.of((match["domain"] if match else name.lower()).replace("_", "-"))
        place = int(match["number"])
        return place if place < len(self.domains) else None

    def collect(self, weights: Mapping[str, float]) -> tuple[float, ...]:
        """Weights by stack, from weights by name; those of one stack add up, and names that mean none are left out."""
        totals = [0.0] * len(self.domains)
        for name, weight in weights.items():
            if (place := self.find(name)) is not None:
                totals[place] += weight
        return tuple(totals)

    def scores(self, domains: Mapping[str, float]) -> dict[str, float]:
        """Scores by stack index, from scores by domain or router output: the highest of a stack's domains counts."""
        scores: dict[str, float] = {}
        for name, score in domains.items():
            for domain in self.outputs.get(name, (name,)):
                if (place := self.of(domain)) is not None:
                    scores[str(place)] = max(score, scores.get(str(place), 0.0))
        return scores

    def spread(self, weights: Sequence[float]) -> dict[str, float]:
        """Probabilities by domain, from weights by stack: normalised, a stack's weight shared evenly by its domains."""
        total = math.fsum(weights)
        return {
            domain: weight / total / len(names)
            for names, weight in zip(self.domains, weights, strict=True)
            for domain in names
            if weight > 0.0
        }

    def norms(self, adapters: Mapping[str, float]) -> tuple[float, ...]:
        """Norms by stack, from norms by adapter; adapters are named as their domains."""
        squares = [0.0] * len(self.domains)
        for name, norm in adapters.items():
            if (place := self.of(name)) is not None:
                squares[place] += norm**2
        return tuple(math.sqrt(square) for square in squares)


class _Domain(msgspec.Struct):
    output: str


@cache
def load_stacks() -> Stacks:
    """Read ``configs/stacks.yaml``, and the router's outputs from ``configs/domains.yaml``.

    Raises:
        SetupError: there are not 32 stacks with at least one domain each, or a domain is not in exactly one of them.
    """
    folder = files("configs")
    try:
        stacks = msgspec.yaml.decode(folder.joinpath("stacks.yaml").read_bytes(), type=tuple[tuple[str, ...], ...])
        domains = msgspec.yaml.decode(folder.joinpath("domains.yaml").read_bytes(), type=dict[str, _Domain])
    except msgspec.DecodeError as error:
        raise SetupError(f"configs/stacks.yaml or domains.yaml: {error}.") from error
    if len(stacks) != STACKS or not all(stacks):
        raise SetupError(f"configs/stacks.yaml has {len(stacks)} stacks, expected {STACKS} with a domain each.")
    names = [name for stack in stacks for name in stack]
    if sorted(names) != sorted(domains):
        odd = sorted({name for name in names if names.count(name) > 1} | (set(names) ^ set(domains)))
        raise SetupError(f"configs/stacks.yaml: {', '.join(odd)} must each stand once, as domains.yaml has them.")
    outputs: dict[str, tuple[str, ...]] = {}
    for name, domain in domains.items():
        outputs[domain.output] = (*outputs.get(domain.output, ()), name)
    return Stacks(stacks, outputs)
