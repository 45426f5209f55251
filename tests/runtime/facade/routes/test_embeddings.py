"""``/v1/embeddings``, as OpenAI's own client asks it: with the real embedder, and with one that only counts."""

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import numpy as np
import openai
import pytest

from bus.agent import Endpoint
from bus.connection import Bus
from bus.testing import run_agents
from runtime.facade import FacadeSettings
from runtime.facade.embeddings import PART_CHARACTERS, PART_TEXTS
from schemas.calls import EMBED
from schemas.embedder import EmbedReply, EmbedRequest
from schemas.status import StatusReply
from tests.agents.running import run_embedder
from tests.runtime.facade.reporters import Reporter
from tests.runtime.facade.scripted import serve_facade

pytestmark = pytest.mark.anyio

MODEL = "all-mpnet-base-v2"


class CountingEmbedder:
    """Embeds a text as its length, and keeps the requests; texts of more than ``max_tokens`` letters are cut."""

    def __init__(self, *, max_tokens: int = 100) -> None:
        self.requests: list[EmbedRequest] = []
        self.max_tokens = max_tokens
        self.held: anyio.Event | None = None
        status = StatusReply(agent="embedder", ready=True, info={"model": MODEL})
        self.agent = Reporter(status, Endpoint(EMBED, self.embed))

    async def embed(self, request: EmbedRequest) -> EmbedReply:
        self.requests.append(request)
        if self.held is not None:
            await self.held.wait()
        lengths = [len(text) for text in request.texts]
        return EmbedReply(
            vectors=tuple((float(length), 0.1) for length in lengths),
            compute=0.0,
            tokens=tuple(lengths),
            max_tokens=self.max_tokens,
        )


@pytest.fixture
async def client(url: str) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as connected:
        yield connected


@pytest.fixture
async def counting(bus: Bus) -> AsyncIterator[CountingEmbedder]:
    embedder = CountingEmbedder()
    async with run_agents(bus, embedder.agent):
        yield embedder


async def test_openais_client_gets_the_same_numbers_in_both_formats(
    client: openai.AsyncOpenAI, http: httpx.AsyncClient, bus: Bus, embedder_path: Path
) -> None:
    texts = ["The cat sat on the mat.", "Un chat était assis sur le tapis.", "The cat sat on the mat."]
    async with run_embedder(bus, embedder_path):
        floats = await client.embeddings.create(model=MODEL, input=texts, encoding_format="float")
        default = await client.embeddings.create(model="micro-kiki", input=texts, dimensions=768, user="ann")
        single = await client.embeddings.create(model=f"openai/{MODEL}", input=texts[0])
        packed = (await http.post("/v1/embeddings", json={"input": texts, "encoding_format": "base64"})).json()
    assert [entry.index for entry in floats.data] == [0, 1, 2]
    for entry, other, sent in zip(floats.data, default.data, packed["data"], strict=True):
        assert entry.embedding == other.embedding
        assert entry.embedding == np.frombuffer(base64.b64decode(sent["embedding"]), dtype="<f4").tolist()
        assert np.linalg.norm(entry.embedding) == pytest.approx(1.0, abs=1e-4)
        assert len(entry.embedding) == 768
    assert floats.data[0].embedding == floats.data[2].embedding == single.data[0].embedding
    assert floats.data[0].embedding != floats.data[1].embedding
    assert (floats.model, floats.object, floats.data[0].object) == (MODEL, "list", "embedding")
    assert single.usage.prompt_tokens == single.usage.total_tokens == 9  # seven pieces between the two marks
    assert floats.usage.total_tokens == floats.usage.prompt_tokens > 2 * 9


async def test_a_text_longer_than_the_model_reads_is_refused_not_cut(
    client: openai.AsyncOpenAI, bus: Bus, embedder_path: Path
) -> None:
    async with run_embedder(bus, embedder_path):
        exact = await client.embeddings.create(model=MODEL, input="word " * 382)
        assert exact.usage.prompt_tokens == 384
        for text in ("word " * 383, "a" + " " * 5000 + "b", "漢" * 400):
            with pytest.raises(openai.BadRequestError, match="maximum context length is 384 tokens") as refusal:
                await client.embeddings.create(model=MODEL, input=["short", text])
            assert (refusal.value.code, refusal.value.param) == ("context_length_exceeded", "input[1]")


async def test_many_texts_are_asked_in_parts_and_come_back_in_order(
    client: openai.AsyncOpenAI, counting: CountingEmbedder
) -> None:
    lengths = [1 + (7 * index) % 100 for index in range(2048)]
    reply = await client.embeddings.create(model=MODEL, input=["x" * length for length in lengths])
    assert [entry.embedding[0] for entry in reply.data] == lengths
    assert [entry.index for entry in reply.data] == list(range(2048))
    assert reply.usage.total_tokens == sum(lengths)
    assert [len(request.texts) for request in counting.requests] == [PART_TEXTS] * (2048 // PART_TEXTS)


async def test_parts_are_small_enough_for_the_broker(http: httpx.AsyncClient, counting: CountingEmbedder) -> None:
    counting.max_tokens = 10**6
    reply = await http.post("/v1/embeddings", json={"input": ["x" * 150_000] * 5})
    assert reply.status_code == 200
    assert [len(request.texts) for request in counting.requests] == [2, 2, 1]
    reply = await http.post("/v1/embeddings", json={"input": ["short", "x" * (PART_CHARACTERS + 1)]})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "input[1]")
    assert "maximum context length" in reply.json()["error"]["message"]


async def test_one_with_many_texts_does_not_lock_others_out(
    client: openai.AsyncOpenAI, counting: CountingEmbedder
) -> None:
    counting.held = anyio.Event()
    async with anyio.create_task_group() as tasks:
        for _ in range(3):
            tasks.start_soon(lambda: client.embeddings.create(model=MODEL, input=["many"] * 320))
        while len(counting.requests) < 2:
            await anyio.sleep(0.01)
        await anyio.sleep(0.05)
        assert len(counting.requests) == 2
        counting.held.set()
    assert len(counting.requests) == 30


async def test_a_client_that_leaves_is_not_embedded_for(url: str, counting: CountingEmbedder) -> None:
    counting.held = anyio.Event()
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=0.2) as hasty:
        with pytest.raises(openai.APITimeoutError):
            await hasty.embeddings.create(model=MODEL, input=["many"] * 320)
    counting.held.set()
    await anyio.sleep(0.1)
    assert len(counting.requests) == 1


@pytest.mark.parametrize("model", ["micro-kiki", "MICRO-KIKI", MODEL, MODEL.upper(), f"sentence-transformers/{MODEL}"])
async def test_there_is_one_embedder_behind_each_name(
    client: openai.AsyncOpenAI, counting: CountingEmbedder, model: str
) -> None:
    assert (await client.embeddings.create(model=model, input="x")).model == MODEL


@pytest.mark.parametrize(
    ("body", "status", "param", "words"),
    [
        ({}, 400, "input", "missing required field"),
        ({"input": None}, 400, "input", "no text"),
        ({"input": ""}, 400, "input", "empty"),
        ({"input": []}, 400, "input", "empty"),
        ({"input": ["a", ""]}, 400, "input[1]", "empty"),
        ({"input": ["a", None]}, 400, "input[1]", "no text"),
        ({"input": ["a", {"text": "b"}]}, 400, "input[1]", "no text"),
        ({"input": {"text": "b"}}, 400, "input", "no text"),
        ({"input": True}, 400, "input", "no text"),
        ({"input": [[]]}, 400, "input", "no text"),
        ({"input": ["a"] * 2049}, 400, "input", "2048 at most"),
        ({"input": [1, 2, 3]}, 400, "input[0]", "another model's vocabulary"),
        ({"input": [1] * 4000}, 400, "input[0]", "another model's vocabulary"),
        ({"input": [[1, 2], [3]]}, 400, "input[0]", "another model's vocabulary"),
        ({"input": ["a", 3]}, 400, "input[1]", "another model's vocabulary"),
        ({"input": "a", "encoding_format": "hex"}, 400, "encoding_format", "float, base64"),
        ({"input": "a", "encoding_format": 3}, 400, "encoding_format", "str"),
        ({"input": "a", "dimensions": 256}, 400, "dimensions", "256, and this model's vectors have 2"),
        ({"input": "a", "dimensions": 0}, 400, "dimensions", "0, and this model's vectors have 2"),
        ({"input": "a", "dimensions": "wide"}, 400, "dimensions", "float"),
        ({"input": "a", "model": "text-embedding-3-small"}, 404, "model", "/v1/models lists them"),
    ],
)
async def test_a_body_that_cannot_be_embedded_is_refused_by_its_field(
    http: httpx.AsyncClient, counting: CountingEmbedder, body: dict[str, Any], status: int, param: str, words: str
) -> None:
    reply = await http.post("/v1/embeddings", json=body)
    error = reply.json()["error"]
    assert (reply.status_code, error["param"]) == (status, param)
    assert words in error["message"]


@pytest.mark.parametrize(
    "body",
    [
        {"input": " "},
        {"input": "a", "model": None, "encoding_format": None, "dimensions": None},
        {"input": ["a"], "user": "ann", "truncate": "END", "unknown": {"deep": [1]}},
        {"input": "a", "dimensions": 2.0},
        {"input": "\x00\u2028😊"},
    ],
)
async def test_fields_that_change_no_vector_are_passed_over(
    http: httpx.AsyncClient, counting: CountingEmbedder, body: dict[str, Any]
) -> None:
    assert (await http.post("/embeddings/", json=body)).status_code == 200


async def test_without_an_embedder_a_client_may_try_again(bus: Bus) -> None:
    async with serve_facade(bus, FacadeSettings(port=0)) as url, httpx.AsyncClient(base_url=url) as http:
        reply = await http.post("/v1/embeddings", json={"input": "a", "model": "anything"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "unavailable")
    assert reply.headers["retry-after"]
