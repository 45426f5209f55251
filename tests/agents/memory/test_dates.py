"""Which spans of time a question names, in several languages; and what only looks like a date."""

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.memory.text.dates import YEARS, resolve_dates

NOW = datetime(2024, 3, 13, 15).timestamp()
"""A Wednesday."""


def days(text: str) -> list[tuple[str, str]]:
    spans = resolve_dates(text, now=NOW)
    return [
        (f"{datetime.fromtimestamp(start):%Y-%m-%d}", f"{datetime.fromtimestamp(end):%Y-%m-%d}") for start, end in spans
    ]


@pytest.mark.parametrize(
    "text",
    [
        "What did Ann do on 8 May, 2023?",
        "What happened on May 8, 2023?",
        "on the 8th of May 2023",
        "May the 8th, 2023",
        "Qu'a dit Anne le 8 mai 2023 ?",
        "Was war am 08.05.2023?",
        "2023-05-08",
        "2023年5月8日我去哪里了",
        "2023년 5월 8일",
        "２０２３年５月８日",
    ],
)
def test_a_day_is_the_same_in_every_way_to_write_it(text: str) -> None:
    assert days(text) == [("2023-05-08", "2023-05-09")]


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("in December 2022", ("2022-12-01", "2023-01-01")),
        ("en août 2022", ("2022-08-01", "2022-09-01")),
        ("fin d’octobre 2022", ("2022-10-01", "2022-11-01")),
        ("le 1er février 2024", ("2024-02-01", "2024-02-02")),
        ("2022年12月", ("2022-12-01", "2023-01-01")),
        ("8 Sept. 2023", ("2023-09-08", "2023-09-09")),
        ("in the summer of 2021", ("2021-01-01", "2022-01-01")),
        ("l'été 2021", ("2021-01-01", "2022-01-01")),
        ("yesterday", ("2024-03-12", "2024-03-13")),
        ("Qu'ai-je dit hier ?", ("2024-03-12", "2024-03-13")),
        ("昨天我说了什么", ("2024-03-12", "2024-03-13")),
        ("aujourd’hui", ("2024-03-13", "2024-03-14")),
        ("last week", ("2024-03-04", "2024-03-11")),
        ("la semaine dernière", ("2024-03-04", "2024-03-11")),
        ("last month", ("2024-02-01", "2024-03-01")),
        ("le mois passé", ("2024-02-01", "2024-03-01")),
        ("last year", ("2023-01-01", "2024-01-01")),
        ("l'année dernière", ("2023-01-01", "2024-01-01")),
        ("3 days ago", ("2024-03-10", "2024-03-11")),
        ("il y a 3 jours", ("2024-03-10", "2024-03-11")),
    ],
)
def test_months_years_and_words_for_them(text: str, span: tuple[str, str]) -> None:
    assert days(text) == [span]


def test_without_a_year_the_last_years_are_meant() -> None:
    spans = days("What did we do in June?")
    assert spans == [(f"{year}-06-01", f"{year}-07-01") for year in range(2024 - YEARS + 1, 2025)]
    assert days("on 29 February") == [("2020-02-29", "2020-03-01"), ("2024-02-29", "2024-03-01")]


def test_two_dates_are_two_spans_and_an_order_that_is_unknown_is_both() -> None:
    assert days("between 11 May 2023 and 2023-05-15") == [("2023-05-11", "2023-05-12"), ("2023-05-15", "2023-05-16")]
    assert days("3/4/2023") == [("2023-03-04", "2023-03-05"), ("2023-04-03", "2023-04-04")]
    assert days("3/14/2023") == days("14/3/2023") == [("2023-03-14", "2023-03-15")]


@pytest.mark.parametrize(
    "text",
    [
        "May I ask who may come?",
        "Is there life on Mars, of Mars?",
        "We march at dawn.",
        "Was machst du hier?",
        "It costs 2023 euros.",
        "31 February 2023",
        "order 12-34-5678",
        "",
    ],
)
def test_a_text_without_a_date_names_nothing(text: str) -> None:
    assert days(text) == []


@given(st.text(alphabet="0123456789-./年月日 mayjuneinof", max_size=40), st.floats())
def test_no_text_and_no_time_raises(text: str, now: float) -> None:
    assert all(start < end for start, end in resolve_dates(text, now=now))
