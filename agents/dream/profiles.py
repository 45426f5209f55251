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


def check_episode(profile: ProfileName, episode: DreamEpisode) -> None:
    """Check that the profile allows the episode and that its slice holds what the operations read.

    Raises:
        InvalidInput: ``param`` names the field at fault.
    """
    limits, operations, input_slice = PROFILES[profile], episode.operation_set, episode.input_slice
    _check_order(operations)
    for operation in operations:
        if operation not in limits.operations:
            raise _field_error("operation_set", f"{profile} does not allow {operation}; take a larger profile")
    for output in episode.output_channels:
        if output not in limits.outputs:
            raise _field_error("output_channels", f"{profile} does not yield {output}; take a larger profile")
        if not _SOURCES[output] & set(operations):
            raise _field_error(
                "output_channels", f"{output} comes from {' or '.join(sorted(_SOURCES[output]))}; add one"
            )
    if input_slice.snapshots and not limits.snapshots:
        raise _field_error("input_slice.snapshots", f"{profile} does not read the latent ring; leave it 0")
    if ("replay" in operations) != bool(input_slice.beta_records):
        raise _field_error("input_slice.beta_records", "replay needs records, and records are read by replay alone")
    if "recombine" in operations and not input_slice.others:
        raise _field_error("input_slice.others", "recombine merges the adapter with others; name at least one")
    if input_slice.adapter in input_slice.others or len(set(input_slice.others)) != len(input_slice.others):
        raise _field_error("input_slice.others", "each other adapter is named once, and none is the adapter itself")
    ids = [record.id for record in input_slice.beta_records]
    if len(set(ids)) != len(ids):
        raise _field_error("input_slice.beta_records", "a record is given twice")


def _check_order(operations: tuple[Operation, ...]) -> None:
    if len(set(operations)) != len(operations):
        raise _field_error("operation_set", "an operation is named twice")
    if "restructure" in operations and "replay" in operations[operations.index("restructure") :]:
        raise _field_error("operation_set", "restructure comes before replay; replay first")


def _field_error(field: str, why: str) -> InvalidInput:
    return InvalidInput(f"{why}.", param=f"episode.{field}")
