"""Profiles and the rules of a dream episode."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.dream.profiles import PROFILES, Profile, check_episode
from schemas.codec import decode, encode
from schemas.dream import BetaRecord, Budget, DreamEpisode, DreamRequest, InputSlice, Operation, ProfileName
from schemas.errors import InvalidEvent, InvalidInput

OPERATIONS: tuple[Operation, ...] = ("replay", "downscale", "restructure", "recombine")
RECORD = BetaRecord(id=1, context="q", outcome="a", saillance_score=0.5, timestamp=1.0)


def episode(*operations: Operation, **changes: Any) -> DreamEpisode:
    """A sound episode of these operations; ``changes`` are fields of it or of its slice."""
    slice_fields = {name: changes.pop(name) for name in ("beta_records", "others", "snapshots") if name in changes}
    sound = DreamEpisode(
        episode_id="de-1",
        trigger="external",
        input_slice=InputSlice(
            adapter="mine",
            beta_records=(RECORD,) if "replay" in operations else (),
            others=("other",) if "recombine" in operations else (),
        ),
        operation_set=operations,
        output_channels=("weight_delta",),
        budget=Budget(flops=1e15, wall_time_s=60.0, energy_j=1e4),
    )
    changes["input_slice"] = msgspec.structs.replace(sound.input_slice, **slice_fields)
    return msgspec.structs.replace(sound, **changes)


def is_within(smaller: Profile, larger: Profile) -> bool:
    """Whether everything that ``smaller`` allows is allowed by ``larger``."""
    return (
        smaller.operations <= larger.operations
        and smaller.outputs <= larger.outputs
        and (larger.snapshots or not smaller.snapshots)
    )


def test_profiles_are_within_each_other() -> None:
    assert is_within(PROFILES["P_min"], PROFILES["P_equ"])
    assert is_within(PROFILES["P_equ"], PROFILES["P_max"])
    assert not is_within(PROFILES["P_max"], PROFILES["P_equ"])
    assert not is_within(PROFILES["P_equ"], PROFILES["P_min"])


@given(st.lists(st.sampled_from(OPERATIONS), min_size=1, max_size=4, unique=True))
def test_a_larger_profile_allows_what_a_smaller_one_allows(operations: list[Operation]) -> None:
    dream_episode = episode(*operations)
    verdicts = []
    profile: ProfileName
    for profile in ("P_min", "P_equ", "P_max"):
        try:
            check_episode(profile, dream_episode)
            verdicts.append(True)
        except InvalidInput:
            verdicts.append(False)
    assert verdicts == sorted(verdicts)
    is_replay_late = "replay" in operations and "restructure" in operations[: operations.index("replay")]
    assert verdicts[2] == (not is_replay_late)


@pytest.mark.parametrize(
    ("profile", "dream_episode", "field"),
    [
        ("P_min", episode("restructure"), "operation_set"),
        ("P_max", episode("restructure", "replay"), "operation_set"),
        ("P_max", episode("downscale", "downscale"), "operation_set"),
        ("P_min", episode("downscale", output_channels=("latent_sample",)), "output_channels"),
        ("P_max", episode("downscale", output_channels=("latent_sample",)), "output_channels"),
        ("P_min", episode("downscale", snapshots=3), "input_slice.snapshots"),
        ("P_max", episode("replay", beta_records=()), "input_slice.beta_records"),
        ("P_max", episode("downscale", beta_records=(RECORD,)), "input_slice.beta_records"),
        ("P_max", episode("replay", beta_records=(RECORD, RECORD)), "input_slice.beta_records"),
        ("P_max", episode("recombine", others=()), "input_slice.others"),
        ("P_max", episode("recombine", others=("mine",)), "input_slice.others"),
        ("P_max", episode("recombine", others=("a", "a")), "input_slice.others"),
    ],
)
def test_a_refusal_names_the_field(profile: ProfileName, dream_episode: DreamEpisode, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        check_episode(profile, dream_episode)
    assert (caught.value.code, caught.value.param) == ("invalid_request", f"episode.{field}")


@pytest.mark.parametrize(
    ("old", "new", "param"),
    [
        (b'"P_min"', b'"P_mid"', "profile"),
        (b'"flops":1000000000000000.0', b'"flops":NaN', "episode.budget.flops"),
        (b'"wall_time_s":60.0', b'"wall_time_s":-Infinity', "episode.budget.wall_time_s"),
        (b'"energy_j":10000.0', b'"energy_j":-1', "episode.budget.energy_j"),
        (b'"adapter":"mine"', b'"adapter":"../mine"', "episode.input_slice.adapter"),
        (b'"beta_records":[{', b'"beta_records":["x",{', "episode.input_slice.beta_records[0]"),
        (b'"saillance_score":0.5', b'"saillance_score":NaN', "episode.input_slice.beta_records[0].saillance_score"),
        (b'"trigger":"external"', b'"trigger":"now"', "episode.trigger"),
        (b'"de-1"', b'"de 1"', "episode.episode_id"),
    ],
)
def test_bytes_that_are_wrong_name_the_field(old: bytes, new: bytes, param: str) -> None:
    data = encode(DreamRequest(profile="P_min", episode=episode("replay")))
    assert old in data
    with pytest.raises(InvalidEvent) as caught:
        decode(DreamRequest, data.replace(old, new))
    assert caught.value.param == param
