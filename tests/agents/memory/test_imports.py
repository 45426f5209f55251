"""A history as JSONL becomes episodes."""

from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.memory.imports import HistoryLine, build_event, date_lines, parse_history
from schemas.errors import InvalidInput


def test_a_line_keeps_its_speaker_text_time_and_id() -> None:
    (line,) = parse_history(
        '\n{"session": 3, "speaker": "Ann", "text": "Hi", "timestamp": "2023-05-08T13:56:00Z", "id": "D1:1"}\n',
        source="f",
    )
    (dated_line,) = date_lines([line])
    episode = build_event(dated_line, (1.0, 0.0), tenant="t").episode
    assert (episode.session_id, episode.speaker, episode.source_id, episode.question) == ("3", "Ann", "D1:1", "Hi")
    assert episode.created_at == datetime(2023, 5, 8, 13, 56, tzinfo=UTC).timestamp()
    assert line.embedding_text == "Ann: Hi"
    assert HistoryLine(text="Hi", role="user").embedding_text == "Hi"


@pytest.mark.parametrize(
    "stamp", ["1:56 pm on 8 May, 2023", "2023-05-08 13:56", 1683554160, "1683554160", 1683554160.0]
)
def test_times_are_read_in_usual_forms(stamp: str | float) -> None:
    (dated_line,) = date_lines([HistoryLine(text="x", timestamp=stamp)])
    assert dated_line.at == 1683554160.0


@given(st.lists(st.tuples(st.integers(0, 2), st.one_of(st.none(), st.floats(0, 1e9))), max_size=20))
def test_time_grows_within_a_session_in_the_order_of_lines(lines: list[tuple[int, float | None]]) -> None:
    dated_lines = date_lines([HistoryLine(text="x", session=session, timestamp=at) for session, at in lines], now=5e8)
    for session in {dated_line.session_id for dated_line in dated_lines}:
        times = [dated_line.at for dated_line in dated_lines if dated_line.session_id == session]
        assert all(earlier < later for earlier, later in pairwise(times))


def test_importing_again_gives_the_same_ids_and_another_tenant_others() -> None:
    dated_line = date_lines([HistoryLine(text="x", id="7")], now=1.0)[0]
    first, again, foreign = (build_event(dated_line, (), tenant=tenant) for tenant in ("a", "a", "b"))
    assert first == again
    assert first.episode.episode_id != foreign.episode.episode_id
    assert first.envelope.turn_id != foreign.envelope.turn_id


@pytest.mark.parametrize(
    ("text", "param"),
    [("{", "line"), ('{"session": "a"}', "text"), ('{"text": 3}', "text"), ("[]", "line")],
)
def test_a_bad_line_is_named(text: str, param: str) -> None:
    with pytest.raises(InvalidInput, match="line 2") as error:
        parse_history('{"text": "fine"}\n' + text, source="file")
    assert error.value.param == param


def test_a_bad_time_and_a_doubled_id_are_named() -> None:
    with pytest.raises(InvalidInput, match="'soon' is no time"):
        date_lines([HistoryLine(text="x", timestamp="soon")])
    with pytest.raises(InvalidInput, match=r"line 2.*twice"):
        date_lines([HistoryLine(text="x", id=1), HistoryLine(text="y", id="1")])
