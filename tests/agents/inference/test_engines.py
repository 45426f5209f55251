"""What every engine owes: ours with its own model, and the upstream one on a live ``mlx_lm.server`` with the same."""

import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from agents.inference.engine import Engine
from agents.inference.requests import DecodingOutcome
from agents.inference.settings import InferenceSettings, UpstreamAdapter, UpstreamSettings
from agents.inference.text import Piece
from agents.inference.upstream.engine import OpenAIEngine
from bus.metrics import DEGRADED
from runtime.bench.contest import run_rival
from runtime.bench.weights import float32_copy
from schemas.errors import DeadlineExceeded, InvalidInput, StageFailed
from schemas.findings import AdapterUse
from tests.agents.inference.mlx.test_engine import PARIS, ask, generate_together

pytestmark = pytest.mark.anyio

LONG = "Tell me a very long story."
BOTH = pytest.mark.parametrize("name", ["mlx", "openai"])


@pytest.fixture(scope="module")
async def engines(
    engine: Any, small_model: Path, adapters_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[dict[str, Engine]]:
    """Both, on the same weights in float32."""
    folder = tmp_path_factory.mktemp("upstream")
    adapters = {name: UpstreamAdapter(path=str(adapters_folder / name)) for name in ("one", "two")}
    model = float32_copy(small_model, folder / "model")
    async with run_rival(model, folder / "log") as client:
        upstream = UpstreamSettings(
            base_url=f"{client.base_url}/v1".replace("//v1", "/v1"),
            model=str(model),
            adapters=adapters,
            lora="field",
        )
        settings = InferenceSettings(engine="openai", model_name="smollm2", upstream=upstream)
        running = OpenAIEngine(settings, upstream)
        await running.start()
        yield {"mlx": engine, "openai": running}
        await running.stop()


async def generate_with_pieces(engine: Engine, request: Any) -> tuple[DecodingOutcome, list[Piece]]:
    pieces: list[Piece] = []

    async def hear(piece: Piece) -> None:
        pieces.append(piece)

    return await engine.generate(request, hear), pieces


@BOTH
async def test_an_answer_with_true_counts_in_pieces(engines: dict[str, Engine], engine: Any, name: str) -> None:
    outcome, pieces = await generate_with_pieces(engines[name], ask())
    (candidate,) = outcome.candidates
    assert candidate.text == PARIS == "".join(piece.text for piece in pieces)
    assert len(pieces) > 1
    assert candidate.finish_reason == "stop"
    prompt = len(engine.encoder.encode(ask().messages).tokens)
    assert candidate.usage.prompt_tokens == outcome.prompt_tokens == prompt
    assert candidate.usage.completion_tokens == len(engine.encoder.encode_plain(PARIS)) + 1
    assert -1.0 <= candidate.logprob < 0.0
    assert outcome.compute > 0
    assert engines[name].healthy


@BOTH
async def test_decoding_ends_at_the_stop_string_and_the_budget(engines: dict[str, Engine], name: str) -> None:
    outcome, pieces = await generate_with_pieces(engines[name], ask(sampling={"stop": ("ital of Fr",)}))
    assert outcome.candidates[0].text == "The cap" == "".join(piece.text for piece in pieces)
    assert outcome.candidates[0].finish_reason == "stop"
    short = await engines[name].generate(ask(LONG, sampling={"max_tokens": 5}))
    assert short.candidates[0].finish_reason == "length"
    assert short.candidates[0].usage.completion_tokens == 5


@BOTH
async def test_candidates_differ_by_their_seeds_and_come_again(engines: dict[str, Engine], name: str) -> None:
    request = ask("Name an animal.", n=3, sampling={"seed": 5, "max_tokens": 5})
    first, again = await generate_together(engines[name], request, replace(request, n=2))
    texts = [candidate.text for candidate in first.candidates]
    assert [candidate.seed for candidate in first.candidates] == [5, 6, 7]
    assert len(set(texts)) > 1
    assert [candidate.text for candidate in again.candidates] == texts[:2]
    assert all(-20.0 < candidate.logprob < 0.0 for candidate in first.candidates)


@BOTH
async def test_the_first_candidate_is_the_greedy_answer_and_later_ones_are_drawn(
    engines: dict[str, Engine], name: str
) -> None:
    question = "Name an animal."
    (greedy,) = (await engines[name].generate(ask(question, sampling={"seed": 1, "max_tokens": 5}))).candidates
    outcomes = [
        await engines[name].generate(ask(question, n=3, sampling={"seed": seed, "max_tokens": 5})) for seed in (11, 21)
    ]
    assert [outcome.candidates[0].text for outcome in outcomes] == [greedy.text, greedy.text]
    assert len({candidate.text for outcome in outcomes for candidate in outcome.candidates[1:]}) > 1


@BOTH
async def test_sampling_narrows(engines: dict[str, Engine], name: str) -> None:
    for narrow in ({"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}):
        outcome = await engines[name].generate(ask(sampling={"temperature": 2.0, "seed": 1, **narrow}))
        assert outcome.candidates[0].text == PARIS, narrow
    (token,) = encode_plain(engines, " Paris")
    reply = await engines[name].generate(ask(sampling={"logit_bias": {str(token): -100.0}}))
    assert "Paris" not in reply.candidates[0].text


def encode_plain(engines: dict[str, Engine], text: str) -> list[int]:
    mlx: Any = engines["mlx"]
    return list(mlx.encoder.encode_plain(text))


@BOTH
async def test_each_reply_comes_from_its_own_adapter(engines: dict[str, Engine], name: str) -> None:
    sets: tuple[tuple[AdapterUse, ...], ...] = ((), (AdapterUse(name="one"),), (AdapterUse(name="two"),))
    requests = [ask(adapters=uses, sampling={"max_tokens": 8}) for uses in sets]
    alone = [await engines["mlx"].generate(request) for request in requests]
    outcomes = await generate_together(engines[name], *requests)
    assert [outcome.candidates[0].text for outcome in outcomes] == [outcome.candidates[0].text for outcome in alone]
    assert [[use.name for use in outcome.adapters] for outcome in outcomes] == [[], ["one"], ["two"]]


@BOTH
async def test_an_adapter_that_nobody_registered_is_left_out_and_counted(engines: dict[str, Engine], name: str) -> None:
    counter = DEGRADED.labels("adapter.missing")
    before = counter._value.get()
    outcome = await engines[name].generate(ask(adapters=(AdapterUse(name="../one"),)))
    assert (outcome.candidates[0].text, outcome.adapters) == (PARIS, ())
    assert counter._value.get() == before + 1
    with pytest.raises(StageFailed, match="not registered") as caught:
        await engines[name].administer("load", "../one")
    assert caught.value.code == "adapter_not_found"
    assert {"one", "two"} <= {info.name for info in (await engines[name].adapters()).adapters}


@BOTH
async def test_choices_are_ranked(engines: dict[str, Engine], name: str) -> None:
    outcome = await engines[name].generate(ask(choices=(PARIS, "Bananas are yellow cars.")))
    ((paris, bananas),) = outcome.scores
    assert bananas < paris < 0.0
    assert outcome.candidates == ()
    assert outcome.exact == (name == "mlx"), "mlx_lm.server tells the likeliest first tokens only"
    with pytest.raises(InvalidInput, match="a choice is empty"):
        await engines[name].generate(ask(choices=("", "a")))


@BOTH
async def test_schemas_and_logprobs_are_served_or_refused(engines: dict[str, Engine], name: str) -> None:
    schema = msgspec.json.encode({"enum": ["Rome"]}).decode()
    schema_request = ask(sampling={"json_schema": schema})
    logprobs_request = ask(sampling={"logprobs": True})
    if name == "mlx":
        assert (await engines[name].generate(schema_request)).candidates[0].text == '"Rome"'
        assert (await engines[name].generate(logprobs_request)).candidates[0].tokens
        return
    for request, param in ((schema_request, "response_format"), (logprobs_request, "logprobs")):
        with pytest.raises(InvalidInput) as caught:
            await engines[name].generate(request)
        assert caught.value.param == param


@BOTH
async def test_cancelling_ends_the_request_and_the_next_is_answered(engines: dict[str, Engine], name: str) -> None:
    with anyio.CancelScope() as scope:

        async def hear(_: Piece) -> None:
            scope.cancel()

        await engines[name].generate(ask(LONG, sampling={"max_tokens": 400}), hear)
    assert scope.cancelled_caught
    assert (await engines[name].generate(ask())).candidates[0].text == PARIS
    assert engines[name].gauges["active_requests"] == 0


@BOTH
async def test_the_deadline_ends_the_request(engines: dict[str, Engine], name: str) -> None:
    with pytest.raises(DeadlineExceeded):
        await engines[name].generate(ask(LONG, sampling={"max_tokens": 4000}, deadline=time.time() + 0.3))


async def test_probes_of_the_live_server_find_its_capabilities(engines: dict[str, Engine]) -> None:
    capabilities = set(engines["openai"].info["capabilities"].split())
    assert capabilities == {"whole_logprobs", "top_logprobs", "completions"}
