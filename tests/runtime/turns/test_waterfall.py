"""The waterfall: rows from a turn's events, whatever state the turn is in."""

import uuid
from datetime import UTC, datetime

import pytest
from rich.console import Console

from bus.turns.events import StoredEvent
from runtime.turns.waterfall import Waterfall, WaterfallRow, draw_waterfall, waterfall
from schemas.chat import Message
from schemas.envelope import Envelope
from schemas.events import Event, QueryReceived, QueryRouted, RecallDone, TurnFailed
from schemas.findings import DomainScore, Plan, Query, Recall, Route, StageTiming

BEGAN = 1000.0
ENVELOPE = Envelope(
    event_id="t:query.received", turn_id="t", session_id="t", tenant="t", created_at=BEGAN, deadline=BEGAN + 9
)
QUERY = Query(model="micro-kiki", messages=(Message(role="user", content="Why?"),))
ROUTE = Route(
    domains=(DomainScore(name="docker", score=0.9),), adapters=(), intent="auto", plan=Plan(level="fast", recall=True)
)
ROUTER = StageTiming(stage="router", started_at=BEGAN + 0.01, finished_at=BEGAN + 0.05, compute=0.03)
MEMORY = StageTiming(stage="memory", started_at=BEGAN + 0.06, finished_at=BEGAN + 0.07, attempt=2)


def make_story(*events: Event) -> list[StoredEvent]:
    return [StoredEvent(number, datetime.now(UTC), event) for number, event in enumerate(events)]


def text_of(picture: object, *, width: int = 160) -> str:
    console = Console(width=width, record=True, file=None)
    with console.capture() as capture:
        console.print(picture)
    return capture.get()


def test_rows_are_relative_to_the_beginning_and_in_order() -> None:
    story = make_story(
        QueryReceived(envelope=ENVELOPE, query=QUERY),
        QueryRouted(envelope=ENVELOPE, query=QUERY, route=ROUTE, timings=(ROUTER,)),
        RecallDone(envelope=ENVELOPE, query=QUERY, route=ROUTE, recall=Recall(), timings=(ROUTER, MEMORY)),
    )
    picture = waterfall(story)
    assert [row.stage for row in picture.rows] == ["router", "memory"]
    router = picture.rows[0]
    assert (round(router.start, 3), round(router.duration, 3), router.compute) == (0.01, 0.04, 0.03)
    assert router.decision == "fast: docker 0.90"
    assert picture.rows[1].decision == "0 recalled"
    assert picture.ending == "under way"
    assert round(picture.total, 3) == 0.07
    assert "(try 2)" in text_of(draw_waterfall(picture))


def test_a_failed_turn_says_where_and_why() -> None:
    failure = TurnFailed(envelope=ENVELOPE, stage="inference", code="adapter_failed", message="bad", retryable=False)
    picture = waterfall(make_story(QueryReceived(envelope=ENVELOPE, query=QUERY), failure))
    assert picture.ending == "failed in inference: adapter_failed: bad"
    assert picture.rows == ()
    assert "failed in inference" in text_of(draw_waterfall(picture))


@pytest.mark.parametrize("width", [80, 120, 200])
def test_an_id_and_the_head_of_the_bars_stay_whole(width: int) -> None:
    rows = [
        WaterfallRow(stage=stage, start=0.1, duration=9.9, compute=9.0, attempt=1, decision=f"episode {uuid.uuid4()}")
        for stage in ("inference", "memory-write")
    ]
    picture = Waterfall(turn_id="t", question="Why?", ending="answered", total=88.332, rows=tuple(rows))
    text = text_of(draw_waterfall(picture, columns=width), width=width)
    for part in ("memory-write", "88332 ms  ", *(row.decision.split()[1] for row in rows)):
        assert part in text
    assert max(map(len, text.splitlines())) <= width
