"""Dates that a question names, as spans of time: "on 8 May 2023", "yesterday", "la semaine dernière", "5月8日".

Dates in digits are read in every language; names of months and words like "yesterday" in English and French, the
commonest of the latter in Chinese and Japanese. A date without a year is that of each of the last :data:`YEARS` years.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from datetime import date, datetime, timedelta

YEARS = 5
"""How many years a date without a year may mean, this one included."""

Span = tuple[float, float]
"""Unix seconds: the first that belongs to it, and the first that does not."""

_ENGLISH = (
    *("january", "february", "march", "april", "may", "june"),
    *("july", "august", "september", "october", "november", "december"),
)
_FRENCH = (
    *("janvier", "fevrier", "mars", "avril", "mai", "juin"),
    *("juillet", "aout", "septembre", "octobre", "novembre", "decembre"),
)
_MONTH_NUMBERS = {name: number for names in (_ENGLISH, _FRENCH) for number, name in enumerate(names, 1)}
_MONTH_NUMBERS |= {name[:3]: number for number, name in enumerate(_ENGLISH, 1)} | {"sept": 9}


def _any_of(names: Iterable[str]) -> str:
    return rf"(?P<name>{'|'.join(sorted(names, key=len, reverse=True))})\b\.?"


_MONTH = _any_of(_MONTH_NUMBERS)
_DAY = r"(?P<day>\d\d?)(?:st|nd|rd|th|er)?"
_YEAR = r"(?P<year>(?:19|20)\d\d)"
_CJK_YEAR = rf"(?<!\d){_YEAR}\s*[年년]"

_BEFORE_YEAR = (
    "in|of|during|since|year|spring|summer|autumn|fall|winter|en|de|depuis|pendant|annee|printemps|ete|automne|hiver"
)

_NAMED = (
    re.compile(rf"\b{_YEAR}-(?P<month>\d\d?)(?:-(?P<day>\d\d?))?\b"),
    re.compile(rf"\b(?P<day>\d\d?)\.\s?(?P<month>\d\d?)\.\s?{_YEAR}\b"),
    re.compile(rf"(?:{_CJK_YEAR}\s*)?(?<!\d)(?P<month>\d\d?)\s*[月월](?:\s*(?P<day>\d\d?)\s*[日号號일])?"),
    re.compile(_CJK_YEAR),
    re.compile(rf"\b{_DAY}\s+(?:of\s+)?{_MONTH}(?:,?\s+{_YEAR}\b)?"),
    re.compile(rf"\b{_MONTH}\s+(?:the\s+)?{_DAY}\b(?:,?\s+{_YEAR}\b)?"),
    re.compile(rf"\b{_MONTH},?\s+(?:of\s+)?{_YEAR}\b"),
    # A month alone needs a word before it: "may" and "march" are verbs, "mars" is a planet.
    re.compile(rf"\b(?:in|of|during|since|last)\s+{_any_of(_ENGLISH)}"),
    re.compile(rf"\b(?:(?:en|de|depuis|pendant)\s+|d'){_any_of(_FRENCH)}"),
    re.compile(rf"\b(?:{_BEFORE_YEAR})\s+{_YEAR}\b"),
)
"""Each takes its match out of the text before the next one looks."""

_EITHER = re.compile(r"\b(?P<first>\d\d?)/(?P<second>\d\d?)/(?P<year>(?:19|20)\d\d)\b")
"""Day and month, or month and day: both are meant where both are dates."""

_TODAY = re.compile(r"\btoday\b|\btonight\b|\bthis morning\b|\baujourd'hui\b|今天|今日")
_YESTERDAY = re.compile(r"\byesterday\b|昨天|昨日")
_HIER = re.compile(r"\bhier\b")
_FRENCH_WORD = re.compile(r"\b(?:je|j|tu|il|elle|on|nous|vous|que|qu|quoi|ai|le|la|les|mon|ma|mes)\b")
"""Words beside which "hier" is French for yesterday, and not German for here."""

_LAST_WEEK = re.compile(r"\blast week\b|\bla semaine (?:derniere|passee)\b|上周|上週|上星期|先週")
_LAST_MONTH = re.compile(r"\blast month\b|\ble mois (?:dernier|passe)\b|上个月|上個月|先月")
_LAST_YEAR = re.compile(r"\blast year\b|\bl'(?:an dernier|an passe|annee derniere|annee passee)\b|去年")
_DAYS_AGO = re.compile(r"\b(?P<english>\d{1,3}) days? ago\b|\bil y a (?P<french>\d{1,3}) jours?\b")


def resolve_dates(text: str, *, now: float) -> tuple[Span, ...]:
    """The spans that the text names, in the machine's time zone; ``now`` (Unix time) is what "yesterday" counts from.

    What is no date ("31 February") names nothing, and no text does when ``now`` is outside of the calendar.
    """
    plain = _fold(text)
    try:
        today = datetime.fromtimestamp(now).date()
        spans = {*_absolute_spans(plain, today), *_relative_spans(plain, today)}
        return tuple(sorted((_seconds(first), _seconds(after)) for first, after in spans))
    except (ValueError, OverflowError, OSError):
        return ()


def _absolute_spans(text: str, today: date) -> Iterator[tuple[date, date]]:
    for match in _EITHER.finditer(text):
        first, second, year = int(match["first"]), int(match["second"]), int(match["year"])
        for day, month in {(first, second), (second, first)}:
            yield from _calendar_spans([year], month, day)
    for pattern in _NAMED:
        for match in pattern.finditer(text):
            parts = match.groupdict()
            month = _MONTH_NUMBERS.get(parts.get("name") or "") or int(parts.get("month") or 0)
            years = [int(parts["year"])] if parts.get("year") else range(today.year - YEARS + 1, today.year + 1)
            yield from _calendar_spans(years, month, int(parts.get("day") or 0))
        text = pattern.sub(" ", text)


def _calendar_spans(years: Iterable[int], month: int, day: int) -> Iterator[tuple[date, date]]:
    """The day, the month (``day`` 0) or the year (``month`` 0) in each of the years, where there is one."""
    for year in years:
        try:
            first = date(year, month or 1, day or 1)
        except ValueError:
            continue
        yield first, first + timedelta(days=1) if day else _month_after(first, 1 if month else 12)


def _relative_spans(text: str, today: date) -> Iterator[tuple[date, date]]:
    day, month = timedelta(days=1), today.replace(day=1)
    monday = today - today.weekday() * day
    if _TODAY.search(text):
        yield today, today + day
    if _YESTERDAY.search(text) or (_HIER.search(text) and _FRENCH_WORD.search(text)):
        yield today - day, today
    if _LAST_WEEK.search(text):
        yield monday - 7 * day, monday
    if _LAST_MONTH.search(text):
        yield (month - day).replace(day=1), month
    if _LAST_YEAR.search(text):
        yield date(today.year - 1, 1, 1), date(today.year, 1, 1)
    for match in _DAYS_AGO.finditer(text):
        that_day = today - int(match["english"] or match["french"]) * day
        yield that_day, that_day + day


def _month_after(first: date, months: int) -> date:
    years, month = divmod(first.month - 1 + months, 12)
    return date(first.year + years, month + 1, 1)


def _seconds(day: date) -> float:
    return datetime(day.year, day.month, day.day).timestamp()


def _fold(text: str) -> str:
    """Lower case, without accents, with plain apostrophes and digits."""
    parts = unicodedata.normalize("NFKD", text.casefold().replace("’", "'"))
    return unicodedata.normalize("NFC", "".join(char for char in parts if not unicodedata.combining(char)))
