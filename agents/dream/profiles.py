"""What each profile may do: P_min within P_equ within P_max, in operations and in outputs."""

from dataclasses import dataclass

from schemas.dream import DreamEpisode, Operation, Output, ProfileName
from schemas.errors import InvalidInput


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The operations and outputs that a profile allows; ``snapshots``: whether it reads the latent ring."""

    operations: frozenset[Operation]
    outputs: frozenset[Output]
    snapshots: bool

    def within(self, other: "Profile") -> bool:
        """Whether everything that this profile allows is allowed by ``other``."""
        return (
            self.operations <= other.operations
            and self.outputs <= other.outputs
            and (other.snapshots or not self.snapshots)
        )


PROFILES: dict[ProfileName, Profile] = {
    "P_min": Profile(
        operations=frozenset({"replay", "downscale"}), outputs=frozenset({"weight_delta"}), snapshots=False
    ),
    "P_equ": Profile(
        operations=frozenset({"replay", "downscale", "restructure", "recombine"}),
        outputs=frozenset({"weight_delta", "hierarchy_chg", "attention_prior"}),
        snapshots=True,
    ),
    "P_max": Profile(
        operations=frozenset({"replay", "downscale", "restructure", "recombine"}),
        outputs=frozenset({"weight_delta", "latent_sample", "hierarchy_chg", "attention_prior"}),
        snapshots=True,
    ),
}

_SOURCES: dict[Output, frozenset[Operation]] = {
    "weight_delta": frozenset({"replay", "downscale", "restructure", "recombine"}),
    "latent_sample": frozenset({"recombine"}),
    "hierarchy_chg": frozenset({"restructure"}),
    "attention_prior": frozenset({"replay"}),
}
"""The operations that can yield an output."""


def check(profile: ProfileName, episode: DreamEpisode) -> None:
    """Whether the profile allows the episode and its slice holds what the operations read.

    Raises:
        InvalidInput: ``param`` names the field at fault.
    """
    allowed, operations, given = PROFILES[profile], episode.operation_set, episode.input_slice
    _refuse_order(operations)
    for operation in operations:
        if operation not in allowed.operations:
            raise _bad("operation_set", f"{profile} does not allow {operation}; take a larger profile")
    for output in episode.output_channels:
        if output not in allowed.outputs:
            raise _bad("output_channels", f"{profile} does not yield {output}; take a larger profile")
        if not _SOURCES[output] & set(operations):
            raise _bad("output_channels", f"{output} comes from {' or '.join(sorted(_SOURCES[output]))}; add one")
    if given.snapshots and not allowed.snapshots:
        raise _bad("input_slice.snapshots", f"{profile} does not read the latent ring; leave it 0")
    if ("replay" in operations) != bool(given.beta_records):
        raise _bad("input_slice.beta_records", "replay needs records, and records are read by replay alone")
    if "recombine" in operations and not given.others:
        raise _bad("input_slice.others", "recombine merges the adapter with others; name at least one")
    if given.adapter in given.others or len(set(given.others)) != len(given.others):
        raise _bad("input_slice.others", "each other adapter is named once, and none is the adapter itself")
    ids = [record.id for record in given.beta_records]
    if len(set(ids)) != len(ids):
        raise _bad("input_slice.beta_records", "a record is given twice")


def _refuse_order(operations: tuple[Operation, ...]) -> None:
    if len(set(operations)) != len(operations):
        raise _bad("operation_set", "an operation is named twice")
    if "restructure" in operations and "replay" in operations[operations.index("restructure") :]:
        raise _bad("operation_set", "restructure comes before replay; replay first")


def _bad(field: str, why: str) -> InvalidInput:
    return InvalidInput(f"{why}.", param=f"episode.{field}")
