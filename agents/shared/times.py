"""Times as people and programs write them, read without guessing: what is unclear is refused.

- A number is Unix seconds, or by its size milliseconds (from 1e11), microseconds (1e14) or nanoseconds (1e17).
  Integers that look like ``YYYYMMDD``, ``YYYYMMDDhhmm`` or ``YYYYMMDDhhmmss`` of the years 1970 to 2100 are dates, in a
  string and as a number: as Unix times they would all lie in 1970 or 1976.
- A text is ISO 8601, long or compact, or any date that has one meaning, such as "1:56 pm on 8 May, 2023".
- A time without a zone is that of ``zone``, and without one of the machine.
"""

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from dateutil import parser

from schemas.errors import InvalidInput
from schemas.numbers import LAST_TIME

EXPECTED = "expected Unix seconds or a date like 2026-01-31 or 2026-01-31T09:30:00Z"

_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?", re.ASCII)
_COMPACT = re.compile(r"(19[7-9]\d|20\d\d|2100)(\d{2}|\d{4}|\d{8}|\d{10})?", re.ASCII)
"""Digits that begin with a year: with the month, the day, the minute or the second."""

_YEAR_FIRST = re.compile(r"\d{4}", re.ASCII)
_ISO = re.compile(
    r"(\d{4}-\d{1,2}-\d{1,2}|\d{4}/\d{1,2}/\d{1,2}|\d{4}\.\d{1,2}\.\d{1,2}|\d{8}|\d{12}|\d{14})"
    r"((T|\s+)(\d{1,2}:\d\d(:\d\d([.,]\d+)?)?(\s*[ap]m)?|\d{2}|\d{4}|\d{6}([.,]\d+)?)"
    r"\s*(Z|[A-Z]{3,5}|(UTC|GMT)?[+-]\d{1,2}(:?\d\d)?)?)?",
    re.ASCII | re.IGNORECASE,
)
"""The texts that may begin with a year. dateutil reads others, too, and passes over what it does not understand."""

_MAIL_COMMENT = re.compile(r"(?<=[+-]\d{4})\s*\([^()]*\)$", re.ASCII)
"""A zone's name after its offset, as in "+0100 (CET)"."""

_UTC_SIGN = re.compile(r"\b(UTC|GMT)(?=[+-]\d)", re.ASCII | re.IGNORECASE)
"""dateutil reads "GMT+1" as POSIX has it, an hour west; everybody else who writes it means an hour east."""

_UNITS = ((1e11, 1.0), (1e14, 1e3), (1e17, 1e6), (1e20, 1e9))
"""Sizes from which a number has the next unit, and how many of the unit are a second."""

_STARTS, _ENDS = datetime(1972, 1, 1), datetime(1976, 12, 31, 23, 59, 59, 999_999)
"""What fills the parts that a text does not name: its first moment, and its last one."""

_MAIL_ZONES = {"EST": -5, "EDT": -4, "CST": -6, "CDT": -5, "MST": -7, "MDT": -6, "PST": -8, "PDT": -7}
"""Hours from UTC of the zones that mail may name (RFC 5322, section 4.3)."""


def parse_time(stamp: float | str, *, zone: tzinfo | None = None, param: str = "timestamp") -> float:
    """The Unix time of a stamp; a date is its first moment.

    Raises:
        InvalidInput: the stamp is no time, has two meanings, names an unknown zone, or lies before 1970.
    """
    return _parse(stamp, _STARTS, zone, param)


def parse_end(stamp: float | str, *, zone: tzinfo | None = None, param: str) -> float:
    """The last Unix time that a stamp names: a date is the end of its day, "09:30" the end of that minute.

    Raises:
        InvalidInput: as :func:`parse_time`.
    """
    return _parse(stamp, _ENDS, zone, param)


def find_zone(name: str | None) -> tzinfo | None:
    """The time zone of a name such as "Europe/Paris"; None, the machine's own, without a name.

    Raises:
        InvalidInput: there is no such zone.
    """
    if name is None:
        return None
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidInput(
            f"'{name}' is no time zone; expected a name like Europe/Paris or UTC.", param="zone"
        ) from error


def format_time(at: float, *, zone: tzinfo | None = None) -> str:
    """A Unix time to the minute, in ``zone`` or in the machine's."""
    return datetime.fromtimestamp(at, UTC).astimezone(zone).strftime("%Y-%m-%d %H:%M")


def _parse(stamp: float | str, defaults: datetime, zone: tzinfo | None, param: str) -> float:
    text = stamp.strip() if isinstance(stamp, str) else f"{stamp:.0f}" if stamp == stamp // 1 else str(stamp)
    try:
        if _NUMBER.fullmatch(text) and not _COMPACT.fullmatch(text):
            at = _read_number(float(text))
        else:
            at = _read_text(_UTC_SIGN.sub(" ", _MAIL_COMMENT.sub("", text)), defaults, zone)
    except (ValueError, OverflowError) as error:
        raise InvalidInput(f"'{stamp}' is no time ({error}); {EXPECTED}.", param=param) from error
    if not 0.0 <= at <= LAST_TIME:
        raise InvalidInput(f"'{stamp}' is no time from 1970 to 9999; {EXPECTED}.", param=param)
    return at


def _read_number(number: float) -> float:
    for limit, unit in _UNITS:
        if abs(number) < limit:
            return number / unit
    raise ValueError("the number is too large")


def _read_text(text: str, defaults: datetime, zone: tzinfo | None) -> float:
    if _YEAR_FIRST.match(text) and not _ISO.fullmatch(text):
        raise ValueError("it is not written as ISO 8601 has it")
    moment, name, offset = _read_moment(text, defaults)
    if _read_moment(text, _STARTS)[0].date() != _read_moment(text, _ENDS)[0].date():
        raise ValueError("it does not name year, month and day")
    if not _YEAR_FIRST.match(text) and len(set(_read_orders(text))) > 1:
        raise ValueError("day and month, or the year, could be swapped")
    if offset is not None:
        return moment.replace(tzinfo=timezone(timedelta(seconds=offset))).timestamp()
    local = _localize(moment, zone)
    return (local if name is None else _find_named(moment, name, zone)).timestamp()


def _read_moment(
    text: str, defaults: datetime, *, dayfirst: bool = False, yearfirst: bool = False
) -> tuple[datetime, str | None, int | None]:
    """The date and time as written, its zone's name and the offset from UTC in seconds, where the text has these."""
    zones: list[tuple[str | None, int | None]] = []

    def keep_zone(name: str | None, offset: int | None) -> None:
        zones.append((name, offset))

    moment = parser.parse(text, default=defaults, tzinfos=keep_zone, dayfirst=dayfirst, yearfirst=yearfirst)
    return moment, *zones[0]


def _read_orders(text: str) -> list[datetime]:
    """The dates that a text gives under every order of day, month and year."""
    return [
        _read_moment(text, _STARTS, dayfirst=dayfirst, yearfirst=yearfirst)[0]
        for dayfirst in (False, True)
        for yearfirst in (False, True)
    ]


def _localize(moment: datetime, zone: tzinfo | None) -> datetime:
    return moment.astimezone() if zone is None else moment.replace(tzinfo=zone)


def _find_named(moment: datetime, name: str, zone: tzinfo | None) -> datetime:
    """The moment in the zone of an abbreviation: one that the zone in force uses then, or one of mail's."""
    for fold in (0, 1):
        local = _localize(moment.replace(fold=fold), zone)
        if local.tzname() == name:
            return local
    if name not in _MAIL_ZONES:
        raise ValueError(f"the zone {name} is unknown: give the offset from UTC, as in +01:00")
    return moment.replace(tzinfo=timezone(timedelta(hours=_MAIL_ZONES[name])))
