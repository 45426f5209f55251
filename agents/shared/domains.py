"""The 35 niche domains and the 31 router outputs that score them, from ``configs/domains.yaml``."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files

import msgspec

from schemas.errors import SetupError


class Domain(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One niche domain: its router output, its definition, and what does not belong to it (``not`` in the file).

    ``phase`` and ``order`` are its place in the curriculum: which phase, and which of all domains, from 1.
    """

    output: str
    phase: str
    order: int
    definition: str
    not_: str = msgspec.field(name="not")


@dataclass(frozen=True)
class Taxonomy:
    """All niche domains by name."""

    domains: dict[str, Domain]

    @property
    def niches(self) -> tuple[str, ...]:
        """Names of the niche domains, in the order of the file."""
        return tuple(self.domains)

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """Router outputs, sorted: the order of the classifier's last layer."""
        return tuple(sorted({domain.output for domain in self.domains.values()}))

    @cached_property
    def members(self) -> dict[str, tuple[str, ...]]:
        """The niche domains of each output, sorted."""
        return {
            output: tuple(sorted(name for name, domain in self.domains.items() if domain.output == output))
            for output in self.outputs
        }

    @property
    def merged(self) -> dict[str, tuple[str, ...]]:
        """The outputs that stand for several niche domains, with these domains."""
        return {output: names for output, names in self.members.items() if len(names) > 1}

    def output_of(self, name: str) -> str:
        """The output of a niche domain; the name of an output gives that output.

        Raises:
            SetupError: there is no such domain.
        """
        if name in self.domains:
            return self.domains[name].output
        if name in self.outputs:
            return name
        raise SetupError(f"there is no domain '{name}': configs/domains.yaml lists them.", param="domain")

    def outputs_of(self, names: Iterable[str]) -> tuple[str, ...]:
        """The outputs of several domains, sorted, each once."""
        return tuple(sorted({self.output_of(name) for name in names}))


@cache
def load_taxonomy() -> Taxonomy:
    """Read ``configs/domains.yaml``.

    Raises:
        SetupError: the file does not say what it should.
    """
    data = files("configs").joinpath("domains.yaml").read_bytes()
    try:
        return Taxonomy(msgspec.yaml.decode(data, type=dict[str, Domain]))
    except msgspec.DecodeError as error:
        raise SetupError(f"configs/domains.yaml: {error}.") from error
