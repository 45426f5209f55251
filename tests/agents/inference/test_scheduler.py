"""Fairness of the queue in front of the batch."""

import itertools
import random
from dataclasses import dataclass
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.inference.scheduler import Running, Scheduler, Waiting
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

    @property
    def alone(self) -> bool:
        return self.key == "Z"

    @property
    def bytes(self) -> int:
        return 10 * self.rows * self.lasts


MAX_BYTES = 400
arrivals = st.lists(
    st.tuples(
        st.integers(0, 40),
        st.sampled_from("ABCDZ"),
        st.sampled_from(get_args(Lane)),
        st.integers(1, MAX_ROWS),
        st.integers(1, 12),
    ),
    max_size=40,
).map(lambda rows: [Arrival(number, *row) for number, row in enumerate(rows)])


def make(
    *, max_keys: int = 1, max_bytes: int | None = None, patience: tuple[float, float, float] = PATIENCE
) -> Scheduler[Arrival]:
    return Scheduler(max_rows=MAX_ROWS, patience=patience, max_keys=max_keys, max_bytes=max_bytes)


def batch(*arrivals: Arrival, ready: str = "") -> Running:
    return Running(
        keys=frozenset(arrival.key for arrival in arrivals),
        ready=frozenset(ready),
        alone=any(arrival.alone for arrival in arrivals),
        rows={"": sum(arrival.rows for arrival in arrivals)},
        bytes=sum(arrival.bytes for arrival in arrivals),
    )


def add_arrival(scheduler: Scheduler[Arrival], arrival: Arrival, now: float) -> None:
    scheduler.add(
        arrival,
        key=arrival.key,
        lane=arrival.lane,
        rows=arrival.rows,
        now=now,
        alone=arrival.alone,
        bytes=arrival.bytes,
    )


@dataclass
class SimulationResult:
    """``admitted_at``: step by number; ``swaps``: how often the batch's set of keys was not there already."""

    admitted_at: dict[int, int]
    swaps: int = 0
    steps: int = 0


def simulate(work: list[Arrival], scheduler: Scheduler[Arrival]) -> SimulationResult:
    """Run to the end, checking the rules on the way."""
    running, result, ready = dict[int, tuple[Arrival, int]](), SimulationResult({}), ""
    while len(result.admitted_at) < len(work) or running:
        now = result.steps
        for arrival in (arrival for arrival in work if arrival.at == now):
            add_arrival(scheduler, arrival, float(now))
        running = {
            number: (arrival, remaining - 1) for number, (arrival, remaining) in running.items() if remaining > 1
        }
        before = batch(*(arrival for arrival, _ in running.values()), ready=ready)
        admissions = scheduler.admit(running=before, now=float(now))
        for waiting in admissions:
            running[waiting.item.number] = (waiting.item, waiting.item.lasts)
            result.admitted_at[waiting.item.number] = now
        after = batch(*(arrival for arrival, _ in running.values()))
        check_rules(admissions, scheduler, after, now)
        if admissions:
            result.swaps += not {str(key) for key in after.keys} <= set(ready)
            ready_keys = set(ready) | {str(key) for key in after.keys}
            ready = "".join(ready_keys if len(ready_keys) <= scheduler.max_keys else {str(key) for key in after.keys})
        result.steps += 1
    return result


def check_rules(admissions: list[Waiting[Arrival]], scheduler: Scheduler[Arrival], after: Running, now: int) -> None:
    rows = sum(after.rows.values())
    assert rows <= MAX_ROWS
    assert len(after.keys) <= (1 if after.alone else scheduler.max_keys), "what cannot mix does not"
    fits = scheduler.max_bytes is None or after.bytes <= scheduler.max_bytes
    assert fits or not admissions or after.bytes == admissions[0].bytes, "only what starts an empty batch may be larger"
    assert rows or not len(scheduler), "an empty batch must take what waits"
    due = scheduler.patience
    overdue = [waiting.at + due[waiting.lane] for waiting in scheduler.items() if waiting.at + due[waiting.lane] <= now]
    assert all(waiting.due <= min(overdue) for waiting in admissions if overdue), "nothing overtakes what is overdue"


@given(arrivals, st.integers(1, 4), st.sampled_from([None, MAX_BYTES]))
def test_work_never_starves_and_never_overtakes_overdue_work(
    work: list[Arrival], max_keys: int, max_bytes: int | None
) -> None:
    admitted_at = simulate(work, make(max_keys=max_keys, max_bytes=max_bytes)).admitted_at
    longest = max((arrival.lasts for arrival in work), default=0)
    for arrival in work:
        due = arrival.at + PATIENCE[get_args(Lane).index(arrival.lane)]
        ahead = [
            competitor
            for competitor in work
            if competitor.at + PATIENCE[get_args(Lane).index(competitor.lane)] <= due and competitor != arrival
        ]
        assert admitted_at[arrival.number] <= due + longest * (len(ahead) + 1) + 1


def test_loaded_adapters_are_kept_while_no_work_is_overdue() -> None:
    scheduler = make()
    for number, key in enumerate("BAA"):
        scheduler.add(Arrival(number, 0, key, "interactive", 1, 1), key=key, lane="interactive", rows=1, now=0.0)
    assert [waiting.key for waiting in scheduler.admit(running=batch(ready="A"), now=1.0)] == ["A", "A"]


def test_overdue_work_drains_the_loaded_adapters() -> None:
    scheduler = make()
    scheduler.add(Arrival(0, 0, "B", "interactive", 1, 1), key="B", lane="interactive", rows=1, now=0.0)
    scheduler.add(Arrival(1, 2, "A", "interactive", 1, 1), key="A", lane="interactive", rows=1, now=2.0)
    running = batch(Arrival(2, 0, "A", "interactive", 1, 9))
    assert scheduler.admit(running=running, now=3.0) == []
    assert [waiting.key for waiting in scheduler.admit(running=batch(ready="A"), now=3.0)] == ["B"]


def test_sets_that_mix_do_not_wait_for_each_other() -> None:
    scheduler = make(max_keys=3)
    for number, key in enumerate("BCZD"):
        add_arrival(scheduler, Arrival(number, 0, key, "interactive", 1, 1), 0.0)
    running = batch(Arrival(9, 0, "A", "interactive", 1, 9))
    assert [waiting.key for waiting in scheduler.admit(running=running, now=1.0)] == ["B", "C"]
    assert [waiting.key for waiting in scheduler.admit(running=batch(), now=1.0)] == ["Z"]


def test_work_whose_cache_would_not_fit_waits_for_bytes() -> None:
    scheduler = make(max_bytes=MAX_BYTES)
    add_arrival(scheduler, Arrival(0, 0, "A", "interactive", 1, 30), 0.0)
    assert scheduler.admit(running=batch(Arrival(9, 0, "A", "interactive", 1, 11)), now=0.0) == []
    assert len(scheduler.admit(running=batch(Arrival(9, 0, "A", "interactive", 1, 10)), now=0.0)) == 1


def traffic(seed: int, *, count: int = 300) -> list[Arrival]:
    """Random arrivals of four adapters and the base that keep some rows busy."""
    draw = random.Random(seed)
    lanes = ["interactive"] * 6 + ["auxiliary"] * 3 + ["background"]
    return [
        Arrival(n, n * 2 + draw.randrange(4), draw.choice("ABCDE"), draw.choice(lanes), 1, draw.randint(4, 20))  # type: ignore[arg-type]
        for n in range(count)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_swaps_saved_over_the_order_of_arrival(seed: int) -> None:
    work, patience = traffic(seed), (120.0, 240.0, 480.0)
    in_order = sum(a.key != b.key for a, b in itertools.pairwise(sorted(work, key=lambda a: (a.at, a.number)))) + 1
    single, side_by_side = (simulate(work, make(max_keys=keys, patience=patience)) for keys in (1, 5))
    assert single.swaps < 0.95 * in_order, "one set at a time: those that are ready go first"
    assert side_by_side.swaps < 0.05 * in_order, "side by side: each set is seated once"
    assert side_by_side.steps < 0.7 * single.steps, "no draining: the same work is done sooner"
    waits = [side_by_side.admitted_at[a.number] - a.at for a in work]
    assert max(waits) <= max(patience), "nobody waits longer than the patience of the last lane"


def test_lanes_come_in_order() -> None:
    scheduler = make()
    for number, lane in enumerate(reversed(get_args(Lane))):
        scheduler.add(Arrival(number, 0, "A", lane, 4, 1), key="A", lane=lane, rows=4, now=0.0)
    assert [waiting.lane for waiting in scheduler.admit(running=batch(ready="A"), now=0.0)] == [
        "interactive",
        "auxiliary",
    ]
    assert scheduler.depth("background") == 1


def test_discarded_work_is_never_admitted() -> None:
    scheduler, arrival = make(), Arrival(0, 0, "A", "interactive", 1, 1)
    scheduler.add(arrival, key="A", lane="interactive", rows=1, now=0.0)
    scheduler.discard([arrival])
    assert scheduler.admit(running=batch(ready="A"), now=0.0) == []


@pytest.mark.parametrize("rows", [0, MAX_ROWS + 1])
def test_work_that_can_never_fit_is_refused(rows: int) -> None:
    with pytest.raises(ValueError, match=f"{rows} rows"):
        make().add(Arrival(0, 0, "A", "interactive", rows, 1), key="A", lane="interactive", rows=rows, now=0.0)


def test_sets_that_do_not_fit_in_memory_together_wait() -> None:
    scheduler: Scheduler[Arrival] = Scheduler(
        max_rows=MAX_ROWS, patience=PATIENCE, max_keys=4, fits=lambda keys: len(keys - {""}) <= 2
    )
    for number, key in enumerate(("A", "", "B", "B", "C")):
        add_arrival(scheduler, Arrival(number, 0, key, "interactive", 1, 1), 0.0)
    admitted = [waiting.key for waiting in scheduler.admit(running=Running(), now=0.0)]
    assert admitted == ["A", "", "B", "B"]
    running = Running(keys=frozenset({"A", "B"}), rows={"": 2})
    assert scheduler.admit(running=running, now=0.0) == []
    assert [waiting.key for waiting in scheduler.admit(running=Running(), now=0.0)] == ["C"]


def add_of(scheduler: Scheduler[Arrival], tenant: str, number: int, *, rows: int = 1, now: float = 0.0) -> None:
    arrival = Arrival(number, 0, "A", "interactive", rows, 1)
    scheduler.add(arrival, key="A", lane="interactive", rows=rows, now=now, tenant=tenant)


def run(**rows: int) -> Running:
    return Running(keys=frozenset("A"), rows=rows)


def test_one_tenant_that_fills_the_batch_locks_no_other_out() -> None:
    scheduler = make()
    for number in range(64):
        add_of(scheduler, "flood", number)
    assert len(scheduler.admit(running=Running(), now=0.0)) == MAX_ROWS, "alone it has all rows"
    add_of(scheduler, "other", 64, now=10.0)
    (waiting,) = scheduler.admit(running=run(flood=MAX_ROWS), now=10.0)
    assert waiting.tenant == "other", "though the flood has waited for longer"
    assert scheduler.admit(running=run(flood=MAX_ROWS, other=1), now=20.0) == []


def test_tenants_end_at_equal_shares() -> None:
    scheduler = make()
    for number in range(64):
        add_of(scheduler, "first", number)
    for number in range(64):
        add_of(scheduler, "second", number + 64)
    admissions = scheduler.admit(running=Running(), now=10.0)
    assert [waiting.tenant for waiting in admissions[:8]] == ["first", "second"] * 4, "about 4/7 of 8 each"
    assert len(admissions) == 9


def test_a_tenant_whose_wide_turn_does_not_fit_is_not_overtaken_for_ever() -> None:
    scheduler = make()
    add_of(scheduler, "wide", 0, rows=MAX_ROWS)
    for number in range(1, 9):
        add_of(scheduler, "narrow", number)
    assert scheduler.admit(running=run(narrow=3), now=10.0) == [], "the rows leave until it fits"
    (wide, *_) = scheduler.admit(running=Running(), now=10.0)
    assert wide.tenant == "wide"


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.integers(1, MAX_ROWS)), max_size=60))
def test_all_tenants_together_have_a_third_more_rows_at_most(arrivals: list[tuple[str, int]]) -> None:
    scheduler = make()
    for number, (tenant, rows) in enumerate(arrivals):
        add_of(scheduler, tenant, number, rows=rows)
    admitted = 0
    while len(scheduler):
        newcomers = scheduler.admit(running=Running(), now=10.0)
        assert newcomers, "an empty batch takes what waits"
        assert sum(waiting.rows for waiting in newcomers) <= MAX_ROWS * 4 / 3
        admitted += len(newcomers)
    assert admitted == len(arrivals)
