"""A history as JSONL becomes episodes."""

from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.memory.imports import Line, event, read, told
from schemas.errors import InvalidInput


def test_a_line_keeps_who_said_what_when_and_its_id() -> None:
    (line,) = read(
        '\n{"session": 3, "speaker": "Ann", "text": "Hi", "timestamp": "2023-05-08T13:56:00Z", "id": "D1:1"}\n',
        source="f",
    )
    (said,) = told([line])
    episode = event(said, (1.0, 0.0), tenant="t").episode
    assert (episode.session_id, episode.speaker, episode.source_id, episode.question) == ("3", "Ann", "D1:1", "Hi")
    assert episode.created_at == datetime(2023, 5, 8, 13, 56, tzinfo=UTC).timestamp()
    assert line.embedded == "Ann: Hi"
    assert Line(text="Hi", role="user").embedded == "Hi"


@pytest.mark.parametrize(
    "stamp", ["1:56 pm on 8 May, 2023", "2023-05-08 13:56", 1683554160, "1683554160", 1683554160.0]
)
def test_times_are_read_in_usual_forms(stamp: str | float) -> None:
    (said,) = told([Line(text="x", timestamp=stamp)])
    assert said.at == 1683554160.0


@given(st.lists(st.tuples(st.integers(0, 2), st.one_of(st.none(), st.floats(0, 1e9))), max_size=20))
def test_time_grows_within_a_session_in_the_order_of_lines(lines: list[tuple[int, float | None]]) -> None:
    found = told([Line(text="x", session=session, timestamp=at) for session, at in lines], now=5e8)
    for session in {one.session_id for one in found}:
        times = [one.at for one in found if one.session_id == session]
        assert all(earlier < later for earlier, later in pairwise(times))


def test_importing_again_gives_the_same_ids_and_another_tenant_others() -> None:
    said = told([Line(text="x", id="7")], now=1.0)[0]
    first, again, other = (event(said, (), tenant=tenant) for tenant in ("a", "a", "b"))
    assert first == again
    assert first.episode.episode_id != other.episode.episode_id
    assert first.envelope.turn_id != other.envelope.turn_id


@pytest.mark.parametrize(
    ("text", "param"),
    [("{", "line"), ('{"session": "a"}', "text"), ('{"text": 3}', "text"), ("[]", "line")],
)
def test_a_bad_line_is_named(text: str, param: str) -> None:
    with pytest.raises(InvalidInput, match="line 2") as refused:
        read('{"text": "fine"}\n' + text, source="file")
    assert refused.value.param == param


def test_a_bad_time_and_a_doubled_id_are_named() -> None:
    with pytest.raises(InvalidInput, match="'soon' is no time"):
        told([Line(text="x", timestamp="soon")])
    with pytest.raises(InvalidInput, match=r"line 2.*twice"):
        told([Line(text="x", id=1), Line(text="y", id="1")])
