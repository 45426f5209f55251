"""The engine on the real model."""

import asyncio
import threading
import time
from typing import Any

import anyio
import pytest

from agents.inference.requests import DecodingOutcome, Request
from agents.inference.settings import InferenceSettings
from agents.inference.text import Piece
from bus.metrics import DEGRADED
from schemas.chat import Message, Sampling
from schemas.errors import DeadlineExceeded, KikiError, SetupError, Unavailable
from schemas.findings import AdapterUse, Candidate

pytestmark = pytest.mark.anyio

PARIS = "The capital of France is Paris."


def ask(text: str = "What is the capital of France?", **options: Any) -> Request:
    messages = (Message(role="user", content=text),)
    sampling = Sampling(**{"max_tokens": 12, **options.pop("sampling", {})})
    return Request(lane=options.pop("lane", "interactive"), messages=messages, sampling=sampling, **options)


async def generate_together(engine: Any, *requests: Request) -> list[DecodingOutcome]:
    outcomes: dict[int, DecodingOutcome] = {}

    async def generate_one(number: int) -> None:
        outcomes[number] = await engine.generate(requests[number])

    async with anyio.create_task_group() as tasks:
        for number in range(len(requests)):
            tasks.start_soon(generate_one, number)
    return [outcomes[number] for number in range(len(requests))]


async def generate_in_one_batch(engine: Any, *requests: Request) -> list[DecodingOutcome]:
    """Like :func:`generate_together`, with all of them at the thread before it looks."""
    go = threading.Event()

    async def open_when_all_wait() -> None:
        while engine.thread._calls.qsize() < len(requests):
            await anyio.sleep(0.005)
        go.set()

    engine.thread.call(go.wait)
    outcomes: list[DecodingOutcome] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(open_when_all_wait)
        outcomes += await generate_together(engine, *requests)
    return outcomes


async def test_the_engine_answers_paris_with_true_counts(engine: Any) -> None:
    pieces: list[Piece] = []

    async def hear(piece: Piece) -> None:
        pieces.append(piece)

    request = ask()
    (candidate,) = (await engine.generate(request, hear)).candidates
    prompt = engine.encoder.encode(request.messages)
    assert candidate.text == PARIS == "".join(piece.text for piece in pieces)
    assert len(pieces) > 1
    assert candidate.finish_reason == "stop"
    assert candidate.usage.prompt_tokens == len(prompt.tokens)
    assert candidate.usage.completion_tokens == len(engine.encoder.encode_plain(PARIS)) + 1  # and the end of sequence
    assert -1.0 < candidate.logprob < 0.0


async def test_logprob_is_the_models_own(engine: Any) -> None:
    answer = (await engine.generate(ask(sampling={"max_tokens": 4}))).candidates[0]
    assert answer.finish_reason == "length"
    ((total,),) = (await engine.generate(ask(choices=(answer.text,)))).scores
    assert total / 4 == pytest.approx(answer.logprob, abs=1e-3)


async def test_candidates_share_the_prompt_and_differ(engine: Any) -> None:
    before = engine.gauges["prompt_tokens_total"]
    request = ask(n=3, sampling={"seed": 5})
    outcome = await engine.generate(request)
    assert engine.gauges["prompt_tokens_total"] - before <= outcome.prompt_tokens, "once, not once a candidate"
    first, *later = outcome.candidates
    assert first.text == PARIS
    assert [candidate.seed for candidate in outcome.candidates] == [5, 6, 7]
    assert len({candidate.text for candidate in outcome.candidates}) > 1
    assert all(candidate.usage.completion_tokens <= 12 for candidate in later)


async def test_decoding_begins_no_step_whose_tokens_have_no_reader(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from agents.inference.adapters.mixed import RoutedModel

    steps: list[int] = []
    original = RoutedModel.__call__

    def count_step(self: RoutedModel, inputs: Any, *, cache: Any) -> Any:
        if not self.ending and inputs.shape[1] == 1:
            steps.append(len(inputs))
        return original(self, inputs, cache=cache)

    monkeypatch.setattr(RoutedModel, "__call__", count_step)
    first = ask("Tell me a long story.", n=2, sampling={"max_tokens": 5, "seed": 1})
    answer = (await engine.generate(first)).candidates[0]
    assert (answer.finish_reason, answer.usage.completion_tokens) == ("length", 5)
    assert steps == [2] * 5, "the sixth would have no reader"

    more = (*first.messages, Message(role="assistant", content=answer.text), Message(role="user", content="Go on."))
    request = Request(lane="interactive", messages=more, sampling=Sampling(max_tokens=8))
    before = engine.gauges["prefix_tokens_total"]
    outcome = await engine.generate(request)
    prompt_tokens = len(engine.encoder.encode(first.messages).tokens)
    assert engine.gauges["prefix_tokens_total"] - before >= prompt_tokens + 4, (
        "what is kept ends before the token left out"
    )
    engine.forget()
    assert outcome.candidates[0].text == (await engine.generate(request)).candidates[0].text


async def test_a_short_prompt_waits_for_the_encoder(engine: Any) -> None:
    """The encoder is not thread-safe, and short prompts are encoded on the event loop."""
    answered = anyio.Event()

    async def generate() -> None:
        await engine.generate(ask(sampling={"max_tokens": 1}))
        answered.set()

    async with anyio.create_task_group() as tasks:
        async with engine._encoding:
            tasks.start_soon(generate)
            await anyio.sleep(0.5)
            assert not answered.is_set()
        with anyio.fail_after(60):
            await answered.wait()


async def test_seed_decides_and_neighbours_do_not_matter(engine: Any) -> None:
    request = ask("Name an animal.", sampling={"temperature": 1.0, "seed": 11, "max_tokens": 8})
    (alone,) = await generate_together(engine, request)
    again, _, _ = await generate_together(
        engine,
        request,
        ask("Tell me a long story.", n=2, sampling={"temperature": 1.5, "seed": 3}),
        ask("Count to five."),
    )
    different = await engine.generate(ask("Name an animal.", sampling={"temperature": 1.0, "seed": 12}))
    assert again.candidates[0].text == alone.candidates[0].text
    assert different.candidates[0].text != alone.candidates[0].text


async def test_nucleus_of_one_token_is_greedy(engine: Any) -> None:
    for narrow in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}):
        outcome = await engine.generate(ask(sampling={"temperature": 2.0, "seed": 1, **narrow}))
        assert outcome.candidates[0].text == PARIS, narrow


@pytest.mark.parametrize(("stop", "text"), [("France", "The capital of "), ("ital of Fr", "The cap"), ("Rome", PARIS)])
async def test_stop_strings_end_the_answer_before_themselves(engine: Any, stop: str, text: str) -> None:
    pieces: list[str] = []

    async def hear(piece: Piece) -> None:
        pieces.append(piece.text)

    (candidate,) = (await engine.generate(ask(sampling={"stop": (stop,)}), hear)).candidates
    assert candidate.text == text == "".join(pieces)
    assert candidate.finish_reason == "stop"


async def test_cancelled_request_stops_within_two_tokens(engine: Any) -> None:
    request = ask("Tell me a very long story.", sampling={"max_tokens": 400})
    pieces = 0
    tokens_at_cancel = 0.0
    with anyio.CancelScope() as scope:

        async def hear(_: Piece) -> None:
            nonlocal pieces, tokens_at_cancel
            pieces += 1
            if pieces == 3:
                tokens_at_cancel = engine.gauges["tokens_decoded_total"]
                scope.cancel()

        await engine.generate(request, hear)
    await engine.generate(ask(sampling={"max_tokens": 1}))  # the thread has gone round since
    assert scope.cancelled_caught
    assert engine.gauges["tokens_decoded_total"] - 1 - tokens_at_cancel <= 2
    assert engine.gauges["active_rows"] == 0


async def test_deadline_ends_the_decoding(engine: Any) -> None:
    late = ask("Tell me a very long story.", sampling={"max_tokens": 4000}, deadline=time.time() + 0.3)
    with pytest.raises(DeadlineExceeded):
        await engine.generate(late)
    assert (await engine.generate(ask())).candidates[0].text == PARIS


async def test_choices_are_scored_as_continuations(engine: Any) -> None:
    choices = (PARIS, "The capital of France is Rome.", "Paris")
    outcome = await engine.generate(ask(choices=choices))
    assert outcome.candidates == ()
    ((paris, rome, _),) = outcome.scores
    assert rome < paris < 0.0
    for choice, total in zip(choices, outcome.scores[0], strict=True):
        alone = await engine.generate(ask(choices=(choice,)))
        assert alone.scores[0][0] == pytest.approx(total, abs=1e-3)


@pytest.mark.parametrize("labels", [("yes", "no"), ("KEEP", "I refuse it", "neutral")])
async def test_ballots_of_one_request_are_scored_as_if_each_came_alone(engine: Any, labels: tuple[str, ...]) -> None:
    question = (Message(role="user", content="What is the capital of France?"),)
    ballots = tuple(
        (Message(role="assistant", content=answer), Message(role="user", content="Is that right?"))
        for answer in ("Paris.", "It is Rome, the eternal city, where all roads lead to.", "Lyon")
    )
    before = engine.gauges["prompt_tokens_total"]
    request = Request(lane="auxiliary", messages=question, ballots=ballots, choices=labels)
    outcome = await engine.generate(request)
    assert engine.gauges["prompt_tokens_total"] - before <= outcome.prompt_tokens
    alone = [
        await engine.generate(Request(lane="auxiliary", messages=(*question, *ballot), choices=labels))
        for ballot in ballots
    ]
    assert outcome.prompt_tokens < sum(single.prompt_tokens for single in alone), "what they share is read once"
    for row, single in zip(outcome.scores, alone, strict=True):
        assert row == pytest.approx(single.scores[0], abs=1e-2)


SETS: tuple[tuple[AdapterUse, ...], ...] = (
    (),
    (AdapterUse(name="one"),),
    (AdapterUse(name="two"),),
    (AdapterUse(name="one", weight=0.5), AdapterUse(name="two", weight=0.5)),
)


def ask_set(uses: tuple[AdapterUse, ...]) -> Request:
    """A request whose answers differ between all of :data:`SETS`."""
    return ask(adapters=uses, sampling={"max_tokens": 8})


@pytest.fixture(scope="module")
async def alone(engine: Any) -> list[Candidate]:
    """What each of :data:`SETS` answers by itself."""
    return [(await engine.generate(ask_set(uses))).candidates[0] for uses in SETS]


@pytest.mark.parametrize("at_once", [2, 4, 8])
async def test_each_reply_comes_from_its_own_adapter(engine: Any, alone: list[Candidate], at_once: int) -> None:
    assert len({candidate.text for candidate in alone}) == len(SETS)
    swaps = engine.gauges["adapter_swaps_total"]
    for first in range(0, 8, at_once):
        order = [(first + number) % len(SETS) for number in range(at_once)]
        outcomes = await generate_in_one_batch(engine, *(ask_set(SETS[index]) for index in order))
        assert [outcome.candidates[0].text for outcome in outcomes] == [alone[index].text for index in order]
        assert [outcome.adapters for outcome in outcomes] == [alone[index].adapters for index in order]
    assert engine.gauges["adapter_swaps_total"] - swaps <= 8 / at_once, "one batch, not one set after the other"
    assert [tuple(use.name for use in candidate.adapters) for candidate in alone] == [
        tuple(use.name for use in uses) for uses in SETS
    ]
    assert all(len(use.sha256) == 64 for candidate in alone for use in candidate.adapters)


async def test_candidates_and_choices_keep_their_adapters_beside_others(engine: Any) -> None:
    panel = ask(adapters=SETS[1], n=3, sampling={"seed": 5, "max_tokens": 8})
    requests = [ask(adapters=uses, choices=(PARIS,)) for uses in SETS]
    alone = [await engine.generate(request) for request in (panel, *requests)]
    outcomes = await generate_together(engine, panel, *requests, ask(adapters=SETS[2], sampling={"max_tokens": 16}))
    assert [candidate.text for candidate in outcomes[0].candidates] == [
        candidate.text for candidate in alone[0].candidates
    ]
    totals = [outcome.scores[0][0] for outcome in alone[1:]]
    assert [outcome.scores[0][0] for outcome in outcomes[1:5]] == pytest.approx(totals, abs=1e-2)
    assert len({round(total, 1) for total in totals}) == len(SETS)


async def test_bad_adapter_fails_only_its_own_requests(engine: Any) -> None:
    errors: list[KikiError] = []

    async def bad() -> None:
        try:
            await engine.generate(ask(adapters=(AdapterUse(name="dead"),)))
        except KikiError as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(bad)
        (good,) = await generate_together(engine, ask())
    assert good.candidates[0].text == PARIS
    assert [error.code for error in errors] == ["adapter_failed"]
    assert engine.healthy


async def test_unregistered_adapter_runs_on_base_and_says_so(engine: Any) -> None:
    counter = DEGRADED.labels("adapter.missing")
    before = counter._value.get()
    outcome = await engine.generate(ask(adapters=(AdapterUse(name="nobody"),)))
    assert (outcome.candidates[0].text, outcome.candidates[0].adapters) == (PARIS, ())
    assert counter._value.get() == before + 1


async def test_prefetch_makes_adapters_resident(engine: Any) -> None:
    await engine.prefetch((AdapterUse(name="one"), AdapterUse(name="dead"), AdapterUse(name="nobody")))
    await engine.generate(ask(sampling={"max_tokens": 1}))
    gauges = engine.gauges
    assert gauges["adapter_resident_bytes"] > 0
    assert 1 <= gauges["adapters_resident"] < gauges["adapters_registered"]
    assert engine.parameters <= gauges["model_bytes"] <= 4.1 * engine.parameters


async def test_answer_is_cut_at_the_end_of_the_context(settings: InferenceSettings, engine: Any) -> None:
    request = ask("Tell me a very long story.", sampling={"max_tokens": 400})
    room = engine.encoder.context_tokens
    engine.encoder.context_tokens = len(engine.encoder.encode(request.messages).tokens) + 5
    try:
        (candidate,) = (await engine.generate(request)).candidates
    finally:
        engine.encoder.context_tokens = room
    assert (candidate.finish_reason, candidate.usage.completion_tokens) == ("length", 5)


async def test_work_waits_for_bytes_of_cache_and_all_of_it_finishes(engine: Any) -> None:
    request = ask(sampling={"max_tokens": 20})
    admission = engine.thread.decoder.admission
    row_bytes = admission.cost.of(len(engine.encoder.encode(request.messages).tokens) + 20)
    before, admission.scheduler.max_bytes = admission.scheduler.max_bytes, 2 * row_bytes
    rows: list[float] = []

    async def hear(_: Piece) -> None:
        rows.append(engine.gauges["active_rows"])

    try:
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(engine.generate, request, hear)
    finally:
        admission.scheduler.max_bytes = before
    assert max(rows) == 2
    assert len(rows) >= 5


async def test_a_dead_thread_fails_every_request(settings: InferenceSettings) -> None:
    from agents.inference.mlx.engine import MlxEngine

    engine = MlxEngine(settings)
    await engine.start()

    def die() -> None:
        raise MemoryError("made up")

    def poison() -> None:
        engine.thread.call(die)

    watching = asyncio.ensure_future(engine.watch())
    with pytest.raises(Unavailable, match="thread has ended"):
        await engine.generate(
            ask("Tell me a very long story.", sampling={"max_tokens": 400}),
            lambda _: anyio.to_thread.run_sync(poison),
        )
    with pytest.raises(MemoryError, match="made up"):
        await watching
    assert not engine.healthy
    with pytest.raises(Unavailable):
        await engine.generate(ask())
    await engine.stop()


async def test_start_refuses_missing_models_and_folders(settings: InferenceSettings, tmp_path: Any) -> None:
    import msgspec

    from agents.inference.mlx.engine import MlxEngine

    for wrong in ({"model": tmp_path / "none"}, {"model": tmp_path}, {"adapters": tmp_path / "none"}):
        with pytest.raises(SetupError):
            await MlxEngine(msgspec.structs.replace(settings, **wrong)).start()
