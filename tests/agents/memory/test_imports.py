"""A history as JSONL becomes episodes."""

import json
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.memory.imports import (
    AHEAD,
    MAX_TEXT,
    SHOWN_LINES,
    STEP,
    BadLine,
    History,
    HistoryLine,
    build_event,
    date_lines,
    former_turn_id,
    read_history,
    refuse,
    turn_id,
)
from schemas.errors import InvalidInput

NOW = 1.8e9

LINES: list[dict[str, Any]] = [
    {"text": text, "session": session, **speaker, **stamp, **name}
    for text in ("The budget is 1200.", "ok")
    for session in ("a", "b")
    for speaker in ({}, {"speaker": "Ann"}, {"role": "user"})
    for stamp in ({}, {"timestamp": "2026-03-01"}, {"timestamp": 20260305}, {"timestamp": 1_772_000_000})
    for name in ({}, {"id": f"{text} {speaker} {stamp}"})
]


def jsonl(lines: Iterable[dict[str, Any]]) -> str:
    return "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)


def read(lines: Iterable[dict[str, Any]]) -> History:
    return read_history(jsonl(lines), zone=UTC, now=NOW)


def turn_ids(history: History) -> list[str]:
    return [turn_id(entry.line, tenant="t") for entry in history.entries]


def test_a_line_keeps_its_speaker_text_time_and_id() -> None:
    history = read_history(
        '\ufeff\n{"session": 3, "speaker": "Ann", "text": "Hi\u2028there\x85", "timestamp": "2023-05-08T13:56:00Z",'
        ' "id": "D1:1"}\r\n'
    )
    (entry,) = history.entries
    episode = build_event(entry, (1.0, 0.0), tenant="t").episode
    assert (episode.session_id, episode.speaker, episode.source_id) == ("3", "Ann", "D1:1")
    assert episode.question == "Hi\u2028there\x85"
    assert episode.created_at == datetime(2023, 5, 8, 13, 56, tzinfo=UTC).timestamp()
    assert entry.line.embedding_text.startswith("Ann: Hi")
    assert HistoryLine(text="Hi", role="user").embedding_text == "Hi"
    assert (entry.number, history.bad, history.repeated) == (2, (), 0)


@given(st.lists(st.sampled_from(LINES), max_size=12), st.randoms(use_true_random=False))
def test_a_shuffled_file_gives_the_same_episodes(lines: list[dict[str, Any]], random: Any) -> None:
    shuffled = random.sample(lines, len(lines))
    assert set(turn_ids(read(lines))) == set(turn_ids(read(shuffled)))


@given(st.lists(st.sampled_from(LINES), max_size=12), st.integers(0, 12))
def test_a_file_in_two_parts_gives_the_same_episodes(lines: list[dict[str, Any]], cut: int) -> None:
    parts = turn_ids(read(lines[:cut])) + turn_ids(read(lines[cut:]))
    assert set(parts) == set(turn_ids(read(lines)))


@given(st.lists(st.sampled_from(LINES), max_size=12))
def test_no_line_is_lost_and_none_is_two_episodes(lines: list[dict[str, Any]]) -> None:
    history = read(lines)
    distinct = {json.dumps(line) for line in lines}
    assert len(set(turn_ids(history))) == len(history.entries) == len(distinct)
    assert history.repeated == len(lines) - len(distinct)
    assert {entry.line.text for entry in history.entries} == {line["text"] for line in lines}


@given(st.lists(st.floats(0, NOW), max_size=12, unique=True), st.randoms(use_true_random=False))
def test_every_line_keeps_its_own_time_whatever_the_order(times: list[float], random: Any) -> None:
    def dates(stamps: Sequence[float]) -> dict[str, float]:
        lines = [HistoryLine(text=f"{stamp!r}", timestamp=f"{stamp!r}") for stamp in stamps]
        return {entry.line.text: entry.at for entry in date_lines(lines, zone=UTC, now=NOW)}

    usable = [stamp for stamp in times if not 19700101 <= stamp <= 21001231 and not 1970 <= stamp <= 210012]
    assert dates(usable) == {f"{stamp!r}": stamp for stamp in usable}
    assert dates(random.sample(usable, len(usable))) == dates(usable)


@given(st.lists(st.tuples(st.integers(0, 2), st.one_of(st.none(), st.integers(10**9, 10**9 + 3))), max_size=20))
def test_lines_with_the_same_time_or_none_keep_the_order_of_the_file(lines: list[tuple[int, int | None]]) -> None:
    entries = date_lines(
        [HistoryLine(text=f"{index}", session=session, timestamp=at) for index, (session, at) in enumerate(lines)],
        now=NOW,
    )
    for session in {session for session, _ in lines}:
        mine = [entry for entry in entries if entry.line.session == session]
        assert len({entry.at for entry in mine}) == len(mine)
        for stamp in {entry.line.timestamp for entry in mine}:
            places = [entry.at for entry in mine if entry.line.timestamp == stamp]
            if stamp is not None:
                assert places == sorted(places)
                assert places[0] == stamp or len(places) < len(mine)
                assert places[-1] - float(stamp) < 20 * STEP
        times = [entry.at for entry in mine]
        for index, entry in enumerate(mine[1:], 1):
            if entry.line.timestamp is None:
                assert 0 < times[index] - times[index - 1] < 20 * STEP


def test_lines_without_a_time_stand_before_the_first_time_of_their_session_or_end_now() -> None:
    texts = ("first", "second", "third", "fourth")
    stamps = (None, None, 1e9, None)
    entries = date_lines(
        [HistoryLine(text=text, timestamp=stamp) for text, stamp in zip(texts, stamps, strict=True)], now=NOW
    )
    assert [entry.at for entry in entries] == pytest.approx([1e9 - 2 * STEP, 1e9 - STEP, 1e9, 1e9 + STEP], abs=1e-6)
    untimed_entries = date_lines([HistoryLine(text=text) for text in texts], now=NOW)
    assert max(entry.at for entry in untimed_entries) < NOW
    assert [entry.line.text for entry in sorted(untimed_entries, key=lambda entry: entry.at)] == list(texts)


def test_a_file_with_the_newest_line_first_keeps_its_times() -> None:
    newer, older = read(
        [
            {"text": "The budget is 1500.", "timestamp": "2026-03-05"},
            {"text": "The budget is 1200.", "timestamp": "2026-03-01"},
        ]
    ).entries
    assert newer.at - older.at == 4 * 86400.0


def test_a_time_without_a_zone_is_that_of_the_import() -> None:
    text = jsonl([{"text": "x", "timestamp": "2026-03-01 09:00"}])
    (paris,) = read_history(text, zone=ZoneInfo("Europe/Paris")).entries
    (tokyo,) = read_history(text, zone=ZoneInfo("Asia/Tokyo")).entries
    assert paris.at - tokyo.at == 8 * 3600.0
    assert turn_id(paris.line, tenant="t") == turn_id(tokyo.line, tenant="t")


def test_importing_again_gives_the_same_ids_and_another_tenant_or_session_others() -> None:
    entry = date_lines([HistoryLine(text="x", id="7")], now=1.0)[0]
    first, again, foreign = (build_event(entry, (), tenant=tenant) for tenant in ("a", "a", "b"))
    assert first == again
    assert first.episode.episode_id != foreign.episode.episode_id
    assert first.envelope.turn_id != foreign.envelope.turn_id
    names = {
        turn_id(HistoryLine(text=text, session=session, speaker=speaker, timestamp=stamp), tenant="a")
        for text in ("x", "y")
        for session in ("s", "t", "l" * 200, "l" * 201)
        for speaker in ("", "Ann")
        for stamp in (None, 1, "1")
    }
    assert len(names) == 2 * 4 * 2 * 3
    assert turn_id(HistoryLine(text="x", timestamp=1), tenant="a") == turn_id(
        HistoryLine(text="x", timestamp=1.0), tenant="a"
    )


def test_an_exported_line_without_an_id_of_its_own_is_the_same_line() -> None:
    (entry,) = date_lines([HistoryLine(text="x", speaker="Ann", timestamp="2026-03-01")])
    event = build_event(entry, (), tenant="a")
    back = HistoryLine(text="x", speaker="Ann", timestamp=entry.at, id=event.episode.source_id)
    assert turn_id(back, tenant="a") == event.envelope.turn_id


def test_the_id_of_earlier_versions_is_the_position_among_lines_that_are_not_empty() -> None:
    entries = read_history('{"text": "a", "id": 2}\n\n{"text": "b"}', now=NOW).entries
    assert former_turn_id(entries[0], tenant="t") is None
    assert former_turn_id(entries[1], tenant="t") == turn_id(HistoryLine(text="-", id=2), tenant="t")


@pytest.mark.parametrize(
    ("line", "param"),
    [
        ("{", "line"),
        ('{"session": "a"}', "text"),
        ('{"text": 3}', "text"),
        ("[]", "line"),
        ('{"text": "\\ud800"}', "line"),
        ('{"text": "x", "else": ' + "[" * 100_000 + "]" * 100_000 + "}", "line"),
        ('{"text": "x", "timestamp": NaN}', "line"),
        ('{"text": "x", "timestamp": 1e400}', "timestamp"),
        ('{"text": "x", "timestamp": true}', "timestamp"),
        ('{"text": "x", "timestamp": "nan"}', "timestamp"),
        ('{"text": "x", "timestamp": "inf"}', "timestamp"),
        ('{"text": "x", "timestamp": -1}', "timestamp"),
        ('{"text": "x", "timestamp": 1e300}', "timestamp"),
        ('{"text": "x", "timestamp": "soon"}', "timestamp"),
        ('{"text": "x", "timestamp": "2026-03-01 09:00 XYZT"}', "timestamp"),
        ('{"text": "x", "timestamp": "1969-12-31T00:00Z"}', "timestamp"),
        (json.dumps({"text": "x", "timestamp": NOW + AHEAD + 1}), "timestamp"),
        (json.dumps({"text": "x", "timestamp": 5e10}), "timestamp"),  # milliseconds of 1971
        (json.dumps({"text": "x" * MAX_TEXT}), "text"),
        ('{"text": "something else", "id": "one"}', "id"),
    ],
)
def test_a_bad_line_is_named_and_the_others_are_read(line: str, param: str) -> None:
    history = read_history('{"text": "fine", "id": "one"}\n\n' + line + '\n{"text": "also fine"}', now=NOW)
    assert [entry.line.text for entry in history.entries] == ["fine", "also fine"]
    (bad,) = history.bad
    assert (bad.number, bad.param) == (3, param)
    with pytest.raises(InvalidInput, match=r"notes\.jsonl, line 3: .*Nothing was imported") as error:
        refuse(history.bad, source="notes.jsonl")
    assert error.value.param == param


def test_an_id_may_come_again_with_the_same_line_and_not_with_another_time() -> None:
    line = {"text": "x", "id": 1, "role": "user", "timestamp": 1_772_000_000}
    same, other = {**line, "id": "1", "role": "", "speaker": "user"}, {**line, "timestamp": 1_772_000_001}
    history = read([line, same, other])
    assert ([entry.number for entry in history.entries], history.repeated) == ([1], 1)
    assert [(bad.number, bad.param) for bad in history.bad] == [(3, "id")]


def test_a_refusal_names_the_first_lines_and_counts_the_rest() -> None:
    refuse([], source="f")
    bad = [BadLine(number, "text", f"reason {number}") for number in range(1, SHOWN_LINES + 3)]
    with pytest.raises(InvalidInput, match=f"line {SHOWN_LINES}: reason {SHOWN_LINES}; and 2 more") as error:
        refuse(bad, source="f")
    assert f"reason {SHOWN_LINES + 1}" not in error.value.message
    with pytest.raises(InvalidInput, match="line 2: 'soon' is no time"):
        date_lines([HistoryLine(text="x"), HistoryLine(text="x", timestamp="soon")])


def test_the_clock_of_this_machine_bounds_what_is_imported() -> None:
    soon = time.time() + AHEAD / 2
    assert read_history(jsonl([{"text": "x", "timestamp": soon}])).entries[0].at == pytest.approx(soon)
