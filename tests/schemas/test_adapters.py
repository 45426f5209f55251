"""An adapter's life: names that are names, digests that are digests, and one story for a retry."""

import pytest

from schemas.adapters import ADAPTER_EVENTS, AdapterProposed, new_life
from schemas.codec import decode, encode
from schemas.errors import InvalidEvent


def make_proposal() -> AdapterProposed:
    return AdapterProposed(envelope=new_life("rust", tenant="t", key="a" * 64), name="rust", sha256="a" * 64)


def test_an_encoded_proposal_decodes_to_itself() -> None:
    event = make_proposal()
    assert decode(AdapterProposed, encode(event)) == event


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [(b'"name":"rust"', b'"name":"../rust"', "name"), (b'"sha256":"a', b'"sha256":"z', "sha256")],
)
def test_a_path_is_no_name_and_a_word_no_digest(old: bytes, new: bytes, field: str) -> None:
    data = encode(make_proposal())
    assert old in data
    with pytest.raises(InvalidEvent) as caught:
        decode(AdapterProposed, data.replace(old, new))
    assert caught.value.param == field


def test_a_retry_is_the_same_life_and_another_version_is_not() -> None:
    first, again, next_version = (new_life("rust", tenant="t", key=key).turn_id for key in ("a", "a", "b"))
    assert first == again != next_version
    assert new_life("rust", tenant="t").turn_id != new_life("rust", tenant="t").turn_id


def test_subjects_are_distinct() -> None:
    assert len({kind.subject for kind in ADAPTER_EVENTS}) == len(ADAPTER_EVENTS)
