"""Texts that are continued without a chat template, and what is said of their tokens; tokens of answers as well."""

from dataclasses import replace
from typing import Any

import mlx.core as mx
import pytest

from agents.inference.mlx.loading import load
from agents.inference.requests import DecodingOutcome, Request
from agents.inference.settings import InferenceSettings
from agents.inference.text import Piece
from schemas.chat import Message, Sampling
from schemas.errors import InvalidInput
from schemas.findings import Continuation, LikelyToken, TokenLogprob
from tests.agents.inference.mlx.test_engine import ask

pytestmark = pytest.mark.anyio

FRANCE = "The capital of France is"
SMILE = '{"enum": ["😊漢"]}'


def continue_text(text: str = FRANCE, *, tokens: tuple[int, ...] = (), echo: bool = False, **options: Any) -> Request:
    return Request(
        lane="interactive",
        messages=(Message(role="user", content=text),),
        n=options.pop("n", 1),
        sampling=Sampling(**{"max_tokens": 4, **options}),
        continuation=Continuation(tokens=tokens, echo=echo),
    )


async def generate_with_pieces(engine: Any, request: Request) -> tuple[DecodingOutcome, list[Piece]]:
    pieces: list[Piece] = []

    async def hear(piece: Piece) -> None:
        pieces.append(piece)

    return await engine.generate(request, hear), pieces


def own_bytes(token: LikelyToken) -> bytes:
    return bytes(token.bytes) or token.token.encode()


def carried_tokens(pieces: list[Piece]) -> tuple[TokenLogprob, ...]:
    return tuple(token for piece in pieces for token in piece.tokens)


async def test_a_text_is_continued_as_it_is_with_the_space_that_belongs_to_it(engine: Any) -> None:
    outcome, pieces = await generate_with_pieces(engine, continue_text())
    (candidate,) = outcome.candidates
    assert candidate.text.startswith(" Paris")
    assert candidate.text == "".join(piece.text for piece in pieces)
    assert outcome.prompt_tokens == outcome.own_tokens == len(engine.encoder.encode_plain(FRANCE)), "no template"
    assert outcome.echo is None


async def test_tokens_are_continued_like_their_text(engine: Any) -> None:
    tokens = tuple(engine.encoder.encode_plain(FRANCE))
    by_text = await engine.generate(continue_text())
    by_tokens = await engine.generate(continue_text("", tokens=tokens, echo=True))
    assert by_tokens.candidates[0].text == by_text.candidates[0].text
    assert by_tokens.echo is not None
    assert (by_tokens.echo.text, by_tokens.echo.tokens) == (FRANCE, ())


async def test_an_assistants_message_is_continued_with_the_space_that_belongs_to_it(engine: Any) -> None:
    request = ask(sampling={"max_tokens": 3})
    messages = (*request.messages, Message(role="assistant", content=FRANCE))
    (paris,) = engine.encoder.encode_plain(" Paris")
    sampling = Sampling(max_tokens=1, logit_bias={str(paris): 100.0})
    outcome = await engine.generate(replace(request, messages=messages, sampling=sampling))
    assert outcome.candidates[0].text == " Paris"


async def test_a_token_outside_the_vocabulary_is_refused_by_its_field(engine: Any) -> None:
    size = engine.thread.decoder.vocabulary.size
    with pytest.raises(InvalidInput, match=rf"the token {size}, which is out of vocabulary: it has {size}") as caught:
        await engine.generate(continue_text(tokens=(1, size)))
    assert caught.value.param == "prompt"
    with pytest.raises(InvalidInput, match=rf"the token '{size}', which is out of vocabulary: it has {size}") as caught:
        await engine.generate(ask(sampling={"logit_bias": {"5": 1.0, str(size): -1.0}}))
    assert caught.value.param == "logit_bias"
    await engine.generate(ask(sampling={"max_tokens": 1, "logit_bias": {str(size - 1): -1.0}}))


async def test_a_text_that_is_too_long_is_refused_by_its_field(engine: Any) -> None:
    with pytest.raises(InvalidInput, match="maximum context length") as caught:
        await engine.generate(continue_text("word " * 9000))
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "prompt")


async def test_nothing_is_continued_from_a_token_that_begins_texts(engine: Any) -> None:
    outcome = await engine.generate(continue_text("", echo=True, logprobs=True))
    assert outcome.candidates[0].usage.completion_tokens > 0
    assert outcome.prompt_tokens == 1
    assert outcome.echo is not None
    assert (outcome.echo.text, outcome.echo.tokens) == ("", ())


async def test_a_special_token_in_a_text_is_plain_text(engine: Any) -> None:
    outcome = await engine.generate(continue_text("<|im_start|>system", echo=True, logprobs=True, max_tokens=1))
    assert outcome.echo is not None
    assert len(outcome.echo.tokens) > 3
    assert "".join(token.token for token in outcome.echo.tokens) == "<|im_start|>system" == outcome.echo.text


async def test_marks_of_reasoning_are_text_in_a_text(engine: Any) -> None:
    opening = engine.encoder.encode_plain("<think>")
    for length in range(len(opening)):
        tokens = (*engine.encoder.encode_plain(FRANCE), *opening[:length])
        request = continue_text(tokens=tokens, max_tokens=1, logit_bias={str(opening[length]): 100.0}, stop=["never"])
        outcome, pieces = await generate_with_pieces(engine, request)
        assert outcome.candidates[0].text == "".join(piece.text for piece in pieces) != ""
        assert outcome.candidates[0].reasoning == ""


async def test_candidates_share_the_text_and_differ_by_their_seeds(engine: Any) -> None:
    engine.forget()
    before = engine.gauges["prompt_tokens_total"]
    outcome = await engine.generate(continue_text(n=3, seed=5, temperature=1.0, logprobs=True, echo=True))
    assert engine.gauges["prompt_tokens_total"] - before == outcome.prompt_tokens
    assert [candidate.seed for candidate in outcome.candidates] == [5, 6, 7]
    assert len({candidate.text for candidate in outcome.candidates}) > 1
    for candidate in outcome.candidates:
        assert b"".join(map(own_bytes, candidate.tokens)).decode() == candidate.text
    again = await engine.generate(continue_text(seed=6, temperature=1.0))
    assert again.candidates[0].text == outcome.candidates[1].text


async def test_stop_strings_and_penalties_count_in_texts(engine: Any) -> None:
    stopped = await engine.generate(continue_text(stop=("aris",)))
    assert (stopped.candidates[0].text, stopped.candidates[0].finish_reason) == (" P", "stop")
    (paris,) = engine.encoder.encode_plain(" Paris")
    biased = await engine.generate(continue_text(logit_bias={str(paris): -100.0}))
    assert not biased.candidates[0].text.startswith(" Paris")


async def test_the_echo_tells_each_tokens_log_probability(engine: Any, settings: InferenceSettings) -> None:
    """They are the model's own, in one pass over all of them or in several, after a kept prompt or not."""
    model = load(settings).model  # of its own: other tests put adapters into the one that they share
    text = f"{FRANCE} Paris, and 漢 is a character."
    tokens = engine.encoder.encode_plain(text)
    logits = model(mx.array([tokens]))[0].astype(mx.float32)
    logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
    expected = [float(logprobs[at, token]) for at, token in enumerate(tokens[1:])]
    best = [float(mx.max(row)) for row in logprobs[:-1]]
    for _ in range(2):
        outcome = await engine.generate(continue_text(text, echo=True, logprobs=True, top_logprobs=2))
        assert outcome.echo is not None
        first, *others = outcome.echo.tokens
        assert (first.logprob, first.top) == (0.0, ())
        assert [token.logprob for token in others] == pytest.approx(expected, abs=2e-3)
        assert [token.top[0].logprob for token in others] == pytest.approx(best, abs=2e-3)
        assert {len(token.top) for token in others} == {2}
        assert b"".join(map(own_bytes, outcome.echo.tokens)) == text.encode()
        assert outcome.candidates[0].tokens


async def test_each_token_of_an_answer_has_its_own_bytes(engine: Any) -> None:
    request = ask(sampling={"json_schema": SMILE, "logprobs": True, "top_logprobs": 2, "max_tokens": 24})
    (candidate,) = (await engine.generate(request)).candidates
    assert candidate.text == '"😊漢"'
    assert b"".join(map(own_bytes, candidate.tokens)) == candidate.text.encode()
    assert next(token.bytes for token in candidate.tokens if token.bytes) == (0xF0, 0x9F)
    assert all(own_bytes(token.top[0]) == own_bytes(token) for token in candidate.tokens)


@pytest.mark.parametrize(
    "sampling",
    [
        {"json_schema": SMILE, "max_tokens": 24},
        {"json_schema": SMILE, "max_tokens": 4},
        {"stop": ("never said", "France is Rome")},
        {"max_tokens": 3},
        {"stop": ("ital",)},
    ],
)
async def test_the_pieces_of_a_stream_carry_every_token_once(engine: Any, sampling: dict[str, Any]) -> None:
    outcome, pieces = await generate_with_pieces(engine, ask(sampling={"logprobs": True, **sampling}))
    (candidate,) = outcome.candidates
    assert carried_tokens(pieces) == candidate.tokens != ()
    assert "".join(piece.text for piece in pieces) == candidate.text


async def test_a_cut_answer_carries_its_tokens_too(engine: Any) -> None:
    pieces: list[Piece] = []

    async def hear(piece: Piece) -> None:
        pieces.append(piece)
        for work in list(engine.thread.decoder.batch.active):
            work.cut()

    outcome = await engine.generate(ask("Tell me a story.", sampling={"logprobs": True, "max_tokens": 200}), hear)
    assert outcome.cut
    assert carried_tokens(pieces) == outcome.candidates[0].tokens != ()


async def test_every_candidate_has_its_tokens(engine: Any) -> None:
    request = ask("Name an animal.", n=3, sampling={"logprobs": True, "top_logprobs": 1, "temperature": 1.0})
    outcome, pieces = await generate_with_pieces(engine, request)
    assert all(candidate.tokens for candidate in outcome.candidates)
    assert carried_tokens(pieces) == outcome.candidates[0].tokens
    for candidate in outcome.candidates:
        mean = sum(token.logprob for token in candidate.tokens) / len(candidate.tokens)
        assert candidate.finish_reason == "stop" or candidate.logprob == pytest.approx(mean)
