"""The end of a turn's time: the text so far, and an error only where there is none. A model that is blocked, or reads a
long prompt, holds nobody up."""

import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import msgspec
import pytest

from agents.inference.mlx.work import Work
from agents.inference.requests import DecodingOutcome, Request
from agents.inference.settings import InferenceSettings
from agents.inference.text import Piece
from schemas.chat import Tool, Tooling
from schemas.errors import DeadlineExceeded
from tests.agents.inference.mlx.test_engine import PARIS, ask

pytestmark = pytest.mark.anyio

STORY = "Tell me a very long story."
PATIENCE = 120.0
STEP = 32
"""Tokens of a prompt that are read at once."""


@pytest.fixture(autouse=True)
def forgetful(engine: Any) -> None:
    engine.forget()


@asynccontextmanager
async def blocked(engine: Any) -> AsyncIterator[Callable[[], None]]:
    """Block the model's thread in this context, or until the returned function is called."""
    go, is_blocked = threading.Event(), anyio.Event()
    loop_token = anyio.lowlevel.current_token()

    def block() -> None:
        anyio.from_thread.run_sync(is_blocked.set, token=loop_token)
        go.wait(PATIENCE)

    engine.thread.call(block)
    await is_blocked.wait()
    try:
        yield go.set
    finally:
        go.set()


def cut_all(engine: Any) -> None:
    for work in list(engine.thread.decoder.batch.active):
        work.cut()


async def generate_until(engine: Any, request: Request, tokens: int) -> tuple[DecodingOutcome, list[Piece]]:
    """Generate with the request's time ending at its piece number ``tokens``, while the model's thread sleeps."""
    pieces: list[Piece] = []

    async def hear(piece: Piece) -> None:
        pieces.append(piece)
        if len(pieces) == tokens:
            engine.thread.call(lambda: time.sleep(0.5))
            cut_all(engine)

    return await engine.generate(request, hear), pieces


async def test_the_text_so_far_is_the_answer(engine: Any) -> None:
    finish = time.time() + 6.0
    request = ask(STORY, sampling={"max_tokens": 4000}, finish=finish)
    pieces: list[Piece] = []

    async def hear(piece: Piece) -> None:
        pieces.append(piece)

    outcome = await engine.generate(request, hear)
    assert finish < time.time() < finish + 1.0
    (candidate,) = outcome.candidates
    assert (outcome.cut, candidate.finish_reason) == (True, "length")
    assert 0 < candidate.usage.completion_tokens < 4000
    assert candidate.text == "".join(piece.text for piece in pieces) != ""


async def test_an_answer_that_ends_in_time_is_not_cut(engine: Any) -> None:
    outcome = await engine.generate(ask(finish=time.time() + PATIENCE))
    assert (outcome.cut, outcome.candidates[0].text) == (False, PARIS)


async def test_held_back_text_comes_with_the_end_of_the_time(engine: Any) -> None:
    whole = (await engine.generate(ask(sampling={"max_tokens": 12}))).candidates[0].text
    stop = f"{whole[:20]}never"
    request = ask(sampling={"stop": (stop, "is Rome"), "max_tokens": 12})
    outcome, pieces = await generate_until(engine, request, 1)
    (candidate,) = outcome.candidates
    assert candidate.text == "".join(piece.text for piece in pieces)
    assert whole.startswith(candidate.text)


async def test_a_blocked_model_does_not_hold_the_end_up(engine: Any) -> None:
    go, pieces = threading.Event(), list[Piece]()

    async def hear(piece: Piece) -> None:
        pieces.append(piece)
        if len(pieces) == 3:
            engine.thread.call(lambda: go.wait(PATIENCE))
            cut_all(engine)

    outcome = await engine.generate(ask(STORY, sampling={"max_tokens": 400}), hear)
    assert outcome.cut
    assert not go.is_set()
    go.set()
    assert (await engine.generate(ask())).candidates[0].text == PARIS, "and decodes on for others"
    assert engine.gauges["active_rows"] == engine.gauges["active_requests"] == 0


async def test_a_cut_answer_is_kept_for_the_next_try(engine: Any) -> None:
    outcome, _ = await generate_until(engine, ask(STORY, sampling={"max_tokens": 400}), 3)
    await engine.generate(ask(sampling={"max_tokens": 1}))  # the thread has gone round since
    before = engine.gauges["prefix_tokens_total"]
    again = await engine.generate(ask(STORY, sampling={"max_tokens": 4}))
    assert engine.gauges["prefix_tokens_total"] - before >= outcome.prompt_tokens - 2
    assert again.candidates[0].text.startswith(outcome.candidates[0].text)


async def test_waiting_for_the_model_until_the_end_is_an_error_that_says_to_try_again(engine: Any) -> None:
    async with blocked(engine):
        with pytest.raises(DeadlineExceeded, match=r"waited for the model.*try again later") as caught:
            await engine.generate(ask(finish=time.time() + 0.2))
    assert caught.value.retryable


async def test_several_candidates_keep_the_first_in_front(engine: Any) -> None:
    outcome, _ = await generate_until(engine, ask(STORY, n=3, sampling={"max_tokens": 4000}), 3)
    assert outcome.cut
    assert [candidate.finish_reason for candidate in outcome.candidates] == ["length"] * 3
    assert [candidate.seed for candidate in outcome.candidates] == [0, 1, 2]
    assert all(candidate.text for candidate in outcome.candidates)


async def test_half_a_call_never_comes_as_content(engine: Any) -> None:
    tool = Tool(
        name="tell_story",
        parameters='{"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]}',
    )
    request = ask(STORY, tooling=Tooling(tools=(tool,), forced="tell_story"), sampling={"max_tokens": 400})
    outcomes: list[DecodingOutcome] = []

    async def generate() -> None:
        outcomes.append(await engine.generate(request, lambda _: anyio.lowlevel.checkpoint()))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(generate)
        with anyio.fail_after(PATIENCE):
            while not (rows := [row for work in engine.thread.decoder.batch.active for row in work.rows]) or (
                rows[0].decoded < 12
            ):
                await anyio.sleep(0.01)
        cut_all(engine)
    (candidate,) = outcomes[0].candidates
    assert (candidate.text, candidate.tool_calls, candidate.finish_reason) == ("", (), "length")
    assert outcomes[0].cut


@pytest.fixture(scope="module")
async def reader(settings: InferenceSettings) -> AsyncIterator[Any]:
    """An engine that reads prompts in small steps, each of which is quick on a busy machine, too."""
    from agents.inference.mlx.engine import MlxEngine

    running = MlxEngine(msgspec.structs.replace(settings, prefill_step=STEP))
    await running.start()
    yield running
    await running.stop()


def count_up(numbers: int) -> Request:
    """A request whose prompt has two tokens for each of so many numbers."""
    text = " ".join(str(number % 10) for number in range(numbers))
    return ask(text, sampling={"max_tokens": 1})


async def wait_for_prefill(engine: Any, tokens: int) -> Work:
    """The work whose prompt is read, once so many of its tokens are."""
    while True:
        for work in list(engine.thread.decoder.batch.active):
            if work.prefill is not None and work.prefill.done >= tokens:
                assert isinstance(work, Work)
                return work
        await anyio.sleep(0.002)


async def test_a_long_prompt_is_read_in_steps_and_can_be_cancelled(reader: Any) -> None:
    """Another request decodes meanwhile, and the thread is free again within about a step."""
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(reader.generate, count_up(2100))
            with anyio.fail_after(PATIENCE):
                work = await wait_for_prefill(reader, STEP)
                started = time.monotonic()
                await wait_for_prefill(reader, 3 * STEP)
                two_steps = time.monotonic() - started
                answer = await reader.generate(ask(sampling={"max_tokens": 3}))
            assert work.prefill is not None
            assert len(work.prompt.tokens) > 4000
            assert work.prefill.done < 4000, "the other did not wait for the long prompt"
            scope.cancel()
    assert answer.candidates[0].text == "The capital of"
    with anyio.fail_after(3 * two_steps + 2.0):
        while reader.gauges["active_requests"]:
            await anyio.sleep(0.005)


async def test_a_prompt_that_was_not_read_in_time_says_so_and_goes_on_at_the_next_try(reader: Any) -> None:
    request, errors = count_up(200), list[DeadlineExceeded]()
    prompt_tokens = len(reader.encoder.encode(request.messages).tokens)

    async def generate() -> None:
        try:
            await reader.generate(request)
        except DeadlineExceeded as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(generate)
        with anyio.fail_after(PATIENCE):
            await wait_for_prefill(reader, STEP)
        cut_all(reader)
    assert f"of {prompt_tokens} tokens" in errors[0].message
    assert "try again" in errors[0].message
    before = reader.gauges["prefix_tokens_total"]
    assert (await reader.generate(request)).candidates[0].usage.completion_tokens == 1
    assert reader.gauges["prefix_tokens_total"] - before >= STEP


async def test_long_prompts_are_read_by_turns(reader: Any) -> None:
    """A prompt of a few steps that comes behind one of many ends before it."""
    reader.forget()
    ended: list[int] = []

    async def generate(numbers: int) -> None:
        await reader.generate(count_up(numbers))
        ended.append(numbers)

    async with blocked(reader) as release, anyio.create_task_group() as tasks:
        for numbers in (200, 50):
            tasks.start_soon(generate, numbers)
            with anyio.fail_after(PATIENCE):
                while reader.thread._calls.qsize() != 1 + (numbers == 50):
                    await anyio.sleep(0.01)
        release()
    assert ended == [50, 200]


async def test_a_huge_budget_promises_no_more_cache_than_the_context(engine: Any) -> None:
    admission, promised = engine.thread.decoder.admission, list[float]()

    async def hear(_: Piece) -> None:
        promised.append(engine.gauges["kv_bytes_promised"])

    (candidate,) = (await engine.generate(ask(sampling={"max_tokens": 2**20}), hear)).candidates
    assert candidate.text == PARIS
    assert promised[0] == admission.cost.of(engine.encoder.context_tokens)
