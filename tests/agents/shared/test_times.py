"""Times as people and programs write them."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.shared.times import find_zone, format_time, parse_end, parse_time
from schemas.errors import InvalidInput
from schemas.numbers import LAST_TIME

PARIS = ZoneInfo("Europe/Paris")


def moment(*parts: int, zone: ZoneInfo | None = None) -> float:
    return datetime(*parts, tzinfo=zone or UTC).timestamp()  # type: ignore[arg-type, misc]


@pytest.fixture
def los_angeles(monkeypatch: pytest.MonkeyPatch) -> Iterator[ZoneInfo]:
    """The machine's zone, for the length of a test."""
    monkeypatch.setenv("TZ", "America/Los_Angeles")
    time.tzset()
    yield ZoneInfo("America/Los_Angeles")
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    "stamp",
    [
        "1:56 pm on 8 May, 2023",
        "2023-05-08 13:56",
        "2023-05-08T13:56:00Z",
        "2023-05-08t13:56z",
        "2023-5-8 1:56 pm",
        "2023/05/08 13:56:00.000",
        "20230508T1356",
        "20230508T135600Z",
        "20230508T155600.0+0200",
        "202305081356",
        202305081356,
        20230508135600,
        "20230508135600",
        "Mon, 08 May 2023 09:56:00 -0400 (EDT)",
        "Mon May 08 2023 15:56:00 GMT+0200",
        "2023-05-08 15:56 UTC+2",
        "2023-05-08 09:56 EDT",
        "Mon May 8 13:56:00 UTC 2023",
        1683554160,
        "1683554160",
        1683554160.0,
        "1683554160.0",
        1683554160_000,
        "1683554160000",
        1683554160_000_000,
        1683554160_000_000_000,
    ],
)
def test_times_are_read_in_usual_forms(stamp: str | float) -> None:
    assert parse_time(stamp, zone=UTC) == 1683554160.0


@pytest.mark.parametrize("stamp", [20260301, 20260301.0, "20260301", "2026-03-01", "1 March 2026", "Mar 1, 2026"])
def test_a_date_is_its_day_also_as_a_number(stamp: str | float) -> None:
    assert parse_time(stamp, zone=UTC) == moment(2026, 3, 1)
    assert moment(2026, 3, 2) - 0.001 < parse_end(stamp, zone=UTC, param="as_of") < moment(2026, 3, 2)


@pytest.mark.parametrize(
    "stamp",
    [
        "soon", "", " ", "now", "Tuesday", "10:30", "2026-03", 2026, "2026", 202603, "March 2026",
        "nan", "inf", "-inf", "Infinity", float("nan"), float("inf"), float("-inf"),
        -1, "-1", -5e9, 1e300, "1e300", 1e21, "1_000", "0x10",
        "2026-03-01 09:00 XYZT", "2026-03-01 09:00 BST", "2026-03-01 09:00 A", "2026-03-01 09:00 +25:00",
        "2026-03-01 09:00 Mars/Olympus", "1 March 2026 09:00 XYZT",
        "2026-03-05T15:00:00 01:00", "2026-03-01 2027-03-01", "2026-060", "2026-W09-7",
        "2026-13-01", "2026-02-30", 20261301, "20260230", "2026-03-01 25:00", 202603012500,
        "1969-12-31T23:59:59Z", "10000-01-01",
        "03/04/2026", "01.03.2026", "26-03-01", "2026年3月1日",
    ],
)  # fmt: skip
def test_a_stamp_that_is_unclear_or_out_of_range_is_refused(stamp: str | float) -> None:
    for parse in (parse_time, parse_end):
        with pytest.raises(InvalidInput, match="is no time") as error:
            parse(stamp, zone=PARIS, param="as_of")
        assert error.value.param == "as_of"


def test_a_time_without_a_zone_is_the_machines_or_the_named_one(los_angeles: ZoneInfo) -> None:
    for stamp in ("2026-03-01 09:00", "20260301T0900", "2026-03-01 09:00 PST", "1 March 2026 9 am"):
        assert parse_time(stamp) == moment(2026, 3, 1, 9, zone=los_angeles)
        assert format_time(parse_time(stamp)) == "2026-03-01 09:00"
    at = parse_time("2026-03-01 09:00", zone=PARIS)
    assert at == moment(2026, 3, 1, 9, zone=PARIS)
    assert format_time(at, zone=PARIS) == "2026-03-01 09:00"
    assert parse_time("2026-07-01 09:00") == moment(2026, 7, 1, 9, zone=los_angeles)  # summer time
    assert parse_time("2026-03-01T09:00Z", zone=PARIS) == moment(2026, 3, 1, 9)


def test_an_abbreviation_is_the_zones_own_before_mails() -> None:
    shanghai = ZoneInfo("Asia/Shanghai")
    assert parse_time("2026-03-01 09:00 CST", zone=shanghai) == moment(2026, 3, 1, 9, zone=shanghai)
    assert parse_time("2026-03-01 09:00 CST", zone=PARIS) == moment(2026, 3, 1, 15)
    assert parse_time("2026-07-01 09:00 CEST", zone=PARIS) == moment(2026, 7, 1, 7)


def test_an_end_is_the_last_moment_that_is_named() -> None:
    def end(stamp: str | float) -> float:
        return round(parse_end(stamp, zone=PARIS, param="as_of"), 3)

    assert end("2026-03-05") == moment(2026, 3, 6, zone=PARIS)
    assert end("2026-03-29") == moment(2026, 3, 30, zone=PARIS)  # a day of 23 hours
    assert end("2026-03-05 15:00") == moment(2026, 3, 5, 15, 1, zone=PARIS)
    assert end("2026-03-05T15:00:00Z") == moment(2026, 3, 5, 15)
    assert end(1683554160.25) == 1683554160.25


def test_a_zone_is_found_by_its_name() -> None:
    assert find_zone(None) is None
    assert find_zone("Europe/Paris") == PARIS
    for name in ("Europe", "Mars/Olympus", "", "../etc/passwd", "XYZT"):
        with pytest.raises(InvalidInput, match="is no time zone") as error:
            find_zone(name)
        assert error.value.param == "zone"


@given(
    at=st.datetimes(datetime(1970, 1, 2), datetime(2099, 12, 30)).map(lambda at: at.replace(microsecond=0, fold=0)),
    zone=st.sampled_from([UTC, PARIS, ZoneInfo("Asia/Tokyo"), ZoneInfo("America/St_Johns")]),
    form=st.sampled_from(
        ["%Y-%m-%dT%H:%M:%S", "%Y%m%dT%H%M%S", "%Y%m%d%H%M%S", "%d %B %Y %H:%M:%S", "%Y-%m-%d %I:%M:%S %p"]
    ),
)
def test_a_written_time_is_read_back_in_its_zone(at: datetime, zone: ZoneInfo, form: str) -> None:
    assert parse_time(at.strftime(form), zone=zone) == at.replace(tzinfo=zone).timestamp()


@given(st.floats(1e9, 9e10), st.sampled_from([1e3, 1e6, 1e9]))
def test_a_number_has_its_unit_by_its_size(seconds: float, unit: float) -> None:
    assert parse_time(seconds * unit) == pytest.approx(seconds, abs=1e-3)


@given(st.one_of(st.floats(), st.text(), st.integers()))
def test_whatever_comes_is_a_time_in_range_or_refused(stamp: str | float) -> None:
    try:
        start, end = parse_time(stamp, zone=UTC), parse_end(stamp, zone=UTC, param="as_of")
    except InvalidInput:
        return
    assert 0.0 <= start <= end <= LAST_TIME
    assert end - start < timedelta(days=1).total_seconds()
