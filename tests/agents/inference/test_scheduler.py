"""Fairness of the queue in front of the batch."""

from dataclasses import dataclass
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.inference.scheduler import Scheduler, Waiting
from schemas.jobs import Lane

MAX_ROWS = 8
PATIENCE = (2.0, 5.0, 20.0)


@dataclass(frozen=True)
class Arrival:
    number: int
    at: int
    key: str
    lane: Lane
    rows: int
    lasts: int


arrivals = st.lists(
    st.tuples(
        st.integers(0, 40),
        st.sampled_from("ABC"),
        st.sampled_from(get_args(Lane)),
        st.integers(1, MAX_ROWS),
        st.integers(1, 12),
    ),
    max_size=40,
).map(lambda rows: [Arrival(number, *row) for number, row in enumerate(rows)])


def make() -> Scheduler[Arrival]:
    return Scheduler(max_rows=MAX_ROWS, patience=PATIENCE)


def simulate(work: list[Arrival]) -> dict[int, int]:
    """Run to the end, checking the rules on the way. Returns the step at which each arrival was admitted."""
    scheduler, running, admitted_at, loaded, now = make(), dict[int, tuple[Arrival, int]](), dict[int, int](), "", 0
    while len(admitted_at) < len(work) or running:
        for arrival in (arrival for arrival in work if arrival.at == now):
            scheduler.add(arrival, key=arrival.key, lane=arrival.lane, rows=arrival.rows, now=float(now))
        running = {number: (arrival, left - 1) for number, (arrival, left) in running.items() if left > 1}
        in_use = sum(arrival.rows for arrival, _ in running.values())
        admitted = scheduler.admit(loaded=loaded, rows_in_use=in_use, now=float(now))
        check(admitted, scheduler, running, now)
        for waiting in admitted:
            loaded = str(waiting.key)
            running[waiting.item.number] = (waiting.item, waiting.item.lasts)
            admitted_at[waiting.item.number] = now
        assert sum(arrival.rows for arrival, _ in running.values()) <= MAX_ROWS
        assert running or not len(scheduler), "an empty batch must take what waits"
        now += 1
    return admitted_at


def check(
    admitted: list[Waiting[Arrival]],
    scheduler: Scheduler[Arrival],
    running: dict[int, tuple[Arrival, int]],
    now: int,
) -> None:
    keys = {waiting.key for waiting in admitted} | {arrival.key for arrival, _ in running.values()}
    assert len(keys) <= 1, "one set of adapters at a time"
    due = dict(zip(get_args(Lane), PATIENCE, strict=True))
    overdue = [left.at + due[left.lane] for left in scheduler.items() if left.at + due[left.lane] <= now]
    assert all(waiting.due <= min(overdue) for waiting in admitted if overdue), "nothing overtakes what is overdue"


@given(arrivals)
def test_nothing_starves_and_nothing_overtakes_what_is_overdue(work: list[Arrival]) -> None:
    admitted_at = simulate(work)
    longest = max((arrival.lasts for arrival in work), default=0)
    for arrival in work:
        due = arrival.at + PATIENCE[get_args(Lane).index(arrival.lane)]
        ahead = [
            other for other in work if other.at + PATIENCE[get_args(Lane).index(other.lane)] <= due and other != arrival
        ]
        assert admitted_at[arrival.number] <= due + longest * (len(ahead) + 1) + 1


def test_loaded_adapters_are_kept_while_nobody_is_overdue() -> None:
    scheduler = make()
    for number, key in enumerate("BAA"):
        scheduler.add(Arrival(number, 0, key, "interactive", 1, 1), key=key, lane="interactive", rows=1, now=0.0)
    assert [waiting.key for waiting in scheduler.admit(loaded="A", rows_in_use=0, now=1.0)] == ["A", "A"]


def test_overdue_work_drains_the_loaded_adapters() -> None:
    scheduler = make()
    scheduler.add(Arrival(0, 0, "B", "interactive", 1, 1), key="B", lane="interactive", rows=1, now=0.0)
    scheduler.add(Arrival(1, 2, "A", "interactive", 1, 1), key="A", lane="interactive", rows=1, now=2.0)
    assert scheduler.admit(loaded="A", rows_in_use=1, now=3.0) == []
    assert [waiting.key for waiting in scheduler.admit(loaded="A", rows_in_use=0, now=3.0)] == ["B"]


def test_lanes_come_in_order() -> None:
    scheduler = make()
    for number, lane in enumerate(reversed(get_args(Lane))):
        scheduler.add(Arrival(number, 0, "A", lane, 4, 1), key="A", lane=lane, rows=4, now=0.0)
    assert [waiting.lane for waiting in scheduler.admit(loaded="A", rows_in_use=0, now=0.0)] == [
        "interactive",
        "auxiliary",
    ]
    assert scheduler.depth("background") == 1


def test_discarded_work_is_never_admitted() -> None:
    scheduler, arrival = make(), Arrival(0, 0, "A", "interactive", 1, 1)
    scheduler.add(arrival, key="A", lane="interactive", rows=1, now=0.0)
    scheduler.discard([arrival])
    assert scheduler.admit(loaded="A", rows_in_use=0, now=0.0) == []


@pytest.mark.parametrize("rows", [0, MAX_ROWS + 1])
def test_work_that_can_never_fit_is_refused(rows: int) -> None:
    with pytest.raises(ValueError, match=f"{rows} rows"):
        make().add(Arrival(0, 0, "A", "interactive", rows, 1), key="A", lane="interactive", rows=rows, now=0.0)
