"""A long prompt leaves the model to others, and nobody is told by the clock what another tenant asked."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest

from agents.inference.mlx import pace
from agents.inference.mlx.pace import LEAST_TOKENS, WHOLE_TOKENS, PrefillPace
from agents.inference.mlx.prefill import SharedPrefill
from agents.inference.requests import Request
from tests.agents.inference.mlx.test_engine import ask

pytestmark = pytest.mark.anyio

SHORT = "What is the capital of France?"
TRIES = 3


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the clock of the pace forward."""
    now = [0.0]
    monkeypatch.setattr(pace, "perf_counter", lambda: now[0])

    def move(seconds: float) -> None:
        now[0] += seconds

    return move


def test_a_piece_follows_the_rate(clock: Callable[[float], None]) -> None:
    prefill_pace = PrefillPace(most=512, seconds=0.1)
    lengths = []
    for seconds_per_token in (0.001, 0.001, 0.0001, 0.01):
        length = prefill_pace.length(alone=False)
        with prefill_pace.measure_piece(length):
            clock(seconds_per_token * length)
        lengths.append(prefill_pace.length(alone=False))
    assert lengths == [100, 100, 512, LEAST_TOKENS], "0.1 s of tokens, within the bounds"
    with prefill_pace.measure_piece(3):
        clock(1.0)
    assert prefill_pace.length(alone=False) == LEAST_TOKENS
    with prefill_pace.measure_piece(100):
        clock(0.1)
    assert (prefill_pace.length(alone=False), prefill_pace.length(alone=True)) == (100, 200)


def test_a_short_prompt_is_read_at_once(clock: Callable[[float], None]) -> None:
    prefill_pace = PrefillPace(most=512, seconds=0.1)
    with prefill_pace.measure_piece(32):
        clock(10.0)
    assert prefill_pace.cut(WHOLE_TOKENS, alone=False) == WHOLE_TOKENS
    assert prefill_pace.cut(WHOLE_TOKENS + 1, alone=False) == LEAST_TOKENS
    assert PrefillPace(most=16, seconds=0.1).cut(17, alone=True) == 16


def test_first_tokens_and_pieces_share_the_time(clock: Callable[[float], None]) -> None:
    prefill_pace = PrefillPace(most=512, seconds=0.1)
    assert not prefill_pace.owes_first_tokens()
    with prefill_pace.measure_piece(64):
        clock(0.1)
    steps = 0
    while prefill_pace.owes_first_tokens():
        with prefill_pace.measure_first_tokens():
            clock(0.03)
        steps += 1
    assert steps == 7, "twice as long as the piece took, then the next piece"


def count_up(numbers: int, *, tenant: str, first: int = 0) -> Request:
    """A request with a prompt of two tokens for each of so many numbers."""
    text = " ".join(str((first + number) % 10) for number in range(numbers))
    return ask(text, tenant=tenant, sampling={"max_tokens": 1})


async def measure_seconds(engine: Any, request: Request) -> float:
    started = time.monotonic()
    await engine.generate(request)
    return time.monotonic() - started


async def wait_until_read(engine: Any, tokens: int) -> None:
    """Wait until a prompt that is read in pieces has so many tokens behind it."""
    while not any(
        work.prefill is not None and work.prefill.done >= tokens for work in list(engine.thread.decoder.batch.active)
    ):
        await anyio.sleep(0.002)


async def test_one_token_beside_a_long_prompt_takes_at_most_five_times_what_it_takes_alone(engine: Any) -> None:
    ratios = []
    for number in range(TRIES):
        engine.forget()
        alone = await measure_seconds(engine, ask(SHORT, tenant="b", sampling={"max_tokens": 1}))
        engine.forget()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(engine.generate, count_up(2060, tenant="a", first=number))
            await wait_until_read(engine, 64)
            beside = await measure_seconds(engine, ask(SHORT, tenant="b", sampling={"max_tokens": 1}))
            ratios.append(beside / alone)
            (work,) = engine.thread.decoder.batch.active
            assert len(work.prompt.tokens) > 4000
            assert work.prefill.done < 4000, "the long prompt is still being read"
            tasks.cancel_scope.cancel()
    assert statistics.median(ratios) <= 5, ratios


async def test_tenants_read_their_long_prompts_in_turn(engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever sends many long prompts has no more of the model for it."""
    pieces: list[str] = []
    advance = SharedPrefill.advance

    def note_piece(self: SharedPrefill, length: int) -> bool:
        pieces.extend(work.request.tenant for work in engine.thread.decoder.batch.active if work.prefill is self)
        return advance(self, length)

    monkeypatch.setattr(SharedPrefill, "advance", note_piece)
    async with anyio.create_task_group() as tasks:
        for number in range(6):
            tasks.start_soon(engine.generate, count_up(1500, tenant="a", first=number))
        while len(pieces) < 2:
            await anyio.sleep(0.002)
        tasks.start_soon(engine.generate, count_up(1500, tenant="b", first=7))
        while pieces.count("b") < 4:
            await anyio.sleep(0.002)
        tasks.cancel_scope.cancel()
    assert pieces[pieces.index("b") :][:7] == list("bababab")


async def test_a_prompt_of_another_tenant_is_not_known(engine: Any) -> None:
    counts = []
    for tenant in ("c", "d", "c"):
        before = engine.gauges["prompt_tokens_total"]
        outcome = await engine.generate(count_up(100, tenant=tenant))
        counts.append(engine.gauges["prompt_tokens_total"] - before)
    first, other, again = counts
    assert first == other == outcome.prompt_tokens, "all of it is read for each tenant"
    assert again <= 2
