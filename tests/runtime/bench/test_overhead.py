"""Overhead is what is left of a turn when model and embedding compute are taken away."""

import pytest
from msgspec import structs

from runtime.bench.overhead import TurnTiming, measure, shares
from schemas.findings import StageTiming
from tests.agents.memory import scenes


def turn(overhead: float) -> TurnTiming:
    return TurnTiming(total=1.0 + overhead, compute=1.0, own={"router": overhead * 0.25}, hops=overhead * 0.75)


def test_the_shares_add_up() -> None:
    by_part = {share.part: share for share in shares([turn(0.010), turn(0.012), turn(0.014)])}
    assert by_part["overhead"].p50 == pytest.approx(12.0)
    assert by_part["router"].share == pytest.approx(0.25)
    assert by_part["hops"].share == pytest.approx(0.75)
    assert by_part["memory"].p50 == 0.0
    assert sum(share.share for part, share in by_part.items() if part != "overhead") == pytest.approx(1.0)


def test_an_embedding_that_ran_while_the_event_travelled_is_compute() -> None:
    timings = (
        StageTiming(stage="inference", started_at=10.0, finished_at=10.5, compute=0.49),
        StageTiming(stage="negotiator", started_at=10.504, finished_at=10.560, compute=0.05, ahead=0.002),
    )
    event = structs.replace(scenes.answer_ready(scenes.turn()), timings=timings)
    timing = measure(event, published_at=9.99, answered_at=10.563)
    assert timing.compute == pytest.approx(0.49 + 0.05 + 0.002)
    assert timing.own == pytest.approx({"inference": 0.01, "negotiator": 0.006})
    assert timing.hops == pytest.approx(0.573 - 0.5 - 0.056 - 0.002)
    assert timing.overhead == pytest.approx(sum(timing.own.values()) + timing.hops)
