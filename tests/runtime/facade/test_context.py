"""A prompt as long as the model's context is served: body, message and time follow what the worker reports."""

import time
from collections.abc import AsyncIterator

import httpx
import pytest

from bus.connection import Bus, LiveMessage
from runtime.facade import abilities
from schemas.calls import STATUS
from schemas.codec import encode
from schemas.status import StatusReply
from tests.runtime.facade.scripted import Script, chat_body

pytestmark = pytest.mark.anyio

TOKENS = 262_144
PROMPT = "word " * TOKENS
"""As many words, 1.25 MB, which a tokenizer makes a token each of."""


@pytest.fixture(autouse=True)
def _fresh_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(abilities, "KEPT_SECONDS", 0.0)


@pytest.fixture
async def worker(bus: Bus) -> AsyncIterator[None]:
    """A worker that reports a context of :data:`TOKENS`."""

    async def report(message: LiveMessage) -> None:
        status = StatusReply(agent="inference", ready=True, gauges={"context_tokens": float(TOKENS)})
        await bus.send(message.reply, encode(status))

    stop = await bus.listen(bus.subjects.service(STATUS.at("inference").verb), report)
    await bus.flush()
    yield
    await stop()


def ask_long(**fields: object) -> dict[str, object]:
    return chat_body(messages=[{"role": "user", "content": PROMPT}], **fields)


async def test_a_long_body_is_refused_while_no_worker_has_said_more(http: httpx.AsyncClient, script: Script) -> None:
    reply = await http.post("/v1/chat/completions", json=ask_long())
    assert (reply.status_code, reply.json()["error"]["code"]) == (413, "body_too_large")
    assert str(2**20) in reply.json()["error"]["message"]
    assert script.queries == []


async def test_an_answer_is_bounded_while_no_worker_has_said_more(http: httpx.AsyncClient, script: Script) -> None:
    assert (await http.post("/v1/chat/completions", json=chat_body(max_tokens=-1))).status_code == 200
    assert script.queries[0].query.sampling.max_tokens == 32768


@pytest.mark.parametrize("level", ["raw", "full"])
async def test_a_prompt_as_long_as_the_context_is_answered(
    http: httpx.AsyncClient, worker: None, script: Script, level: str
) -> None:
    reply = await http.post("/v1/chat/completions", json=ask_long(kiki={"level": level}))
    assert reply.status_code == 200
    (event,) = script.queries
    assert event.query.messages[0].content == PROMPT.strip() or event.query.messages[0].content == PROMPT
    seconds = event.envelope.deadline - event.envelope.created_at
    assert seconds > 500, "the worker has time for reading it"


async def test_a_body_above_the_context_is_refused_with_the_limit(
    http: httpx.AsyncClient, worker: None, script: Script
) -> None:
    reply = await http.post("/v1/chat/completions", content=b" " * (8 * TOKENS + 1))
    assert reply.status_code == 413
    assert str(8 * TOKENS) in reply.json()["error"]["message"]


@pytest.mark.parametrize(("asked", "given"), [(4096, 4096), (200_000, 200_000), (1_000_000, TOKENS), (-1, TOKENS)])
async def test_an_answer_may_be_as_long_as_the_context(
    http: httpx.AsyncClient, worker: None, script: Script, asked: int, given: int
) -> None:
    reply = await http.post("/v1/chat/completions", json=chat_body(max_tokens=asked))
    assert reply.status_code == 200
    (event,) = script.queries
    assert event.query.sampling.max_tokens == given


async def test_a_short_prompt_has_the_plain_time(http: httpx.AsyncClient, worker: None, script: Script) -> None:
    began = time.time()
    assert (await http.post("/v1/chat/completions", json=chat_body())).status_code == 200
    assert script.queries[0].envelope.deadline - began == pytest.approx(120, abs=2)
