"""Turns at the end of their time, through the facade and every stage behind the worker, the memory's record included.

The worker is scripted: it decodes until its own time is over, or answers and then never answers a job.
"""

import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import msgspec
import pytest

from agents.antibias.agent import AntibiasAgent
from agents.antibias.settings import AntibiasSettings
from agents.catfish.agent import CatfishAgent
from agents.catfish.settings import CatfishSettings
from agents.memory.agent import MemoryAgent
from agents.memory.settings import MemorySettings
from agents.negotiator.agent import NegotiatorAgent
from agents.negotiator.settings import NegotiatorSettings
from bus.connection import Bus
from bus.handler import Delivery, Handler
from bus.testing import ScriptedWorker, run_agents
from bus.topology import EPISODES
from runtime.facade import FacadeSettings
from schemas.chat import Usage
from schemas.events import EpisodeRecorded, InferDone, QueryReceived, QueryRouted, RecallDone
from schemas.findings import Candidate, Inference, Route
from tests.agents.scripted import FULL, degraded_count

pytestmark = pytest.mark.anyio

SECONDS = 6.0
"""A turn's time: enough for the stages on a busy machine, too little for what they wait for."""
TEXTS = ("Men are better drivers than women.", "Driving skill depends on practice.")
"""The stages ask the model about these: they differ, and concern people."""


@pytest.fixture(scope="module")
def settings() -> FacadeSettings:
    return FacadeSettings(port=0, turn_timeout=SECONDS)


class FullRouter(ScriptedWorker):
    """Takes the router's place: every turn is full."""

    name = "router"

    def handlers(self) -> list[Handler[Any]]:
        return [Handler(stage="router", event=QueryReceived, handle=self._route)]

    async def _route(self, event: QueryReceived, _: Delivery) -> QueryRouted:
        route = Route(domains=(), adapters=(), intent="chat", plan=FULL)
        return QueryRouted(envelope=event.envelope.next("router"), query=event.query, route=route)


class BusyWorker(ScriptedWorker):
    """Answers a turn with two candidates: until ``left`` seconds before its deadline it decodes, and then they are cut;
    0 answers at once. No job is ever answered."""

    left = 0.0

    def handlers(self) -> list[Handler[Any]]:
        return [Handler(stage="inference", event=RecallDone, handle=self._decode)]

    async def _decode(self, event: RecallDone, _: Delivery) -> InferDone:
        if self.left:
            await anyio.sleep(event.envelope.remaining - self.left)
        usage = Usage(prompt_tokens=9, completion_tokens=5)
        finish: Any = "length" if self.left else "stop"
        candidates = tuple(Candidate(text=text, usage=usage, finish_reason=finish) for text in TEXTS)
        inference = Inference(
            candidates=candidates, usage=usage + usage, model="m", parameters=10**10, cut=bool(self.left)
        )
        envelope = event.envelope.next("inference")
        return InferDone(
            envelope=envelope, query=event.query, route=event.route, recall=event.recall, inference=inference
        )


@pytest.fixture
async def worker(bus: Bus, tmp_path: Path) -> AsyncIterator[BusyWorker]:
    busy = BusyWorker()
    stages = (
        MemoryAgent(MemorySettings(data_dir=tmp_path / "memory")),
        busy,
        CatfishAgent(CatfishSettings(complexity=0.0, reserve=2.0)),
        NegotiatorAgent(NegotiatorSettings(reserve=2.0)),
        AntibiasAgent(AntibiasSettings()),
    )
    async with run_agents(bus, FullRouter(), *stages):
        yield busy


def body(**fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Who drives better, men or women?"}]
    return {"model": "micro-kiki", "messages": messages, **fields}


async def ask(http: httpx.AsyncClient, *, stream: bool) -> tuple[str, str, str]:
    """The answer's text, its finish reason, and the turn's id."""
    if not stream:
        reply = await http.post("/v1/chat/completions", json=body())
        assert reply.status_code == 200, reply.text
        (choice,) = reply.json()["choices"]
        return choice["message"]["content"], choice["finish_reason"], reply.headers["x-turn-id"]
    async with http.stream("POST", "/v1/chat/completions", json=body(stream=True)) as response:
        assert response.status_code == 200
        lines = [line async for line in response.aiter_lines()]
        chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        choices = [choice for chunk in chunks for choice in chunk["choices"]]
        text = "".join(choice["delta"].get("content") or "" for choice in choices)
        return text, choices[-1]["finish_reason"], response.headers["x-turn-id"]


async def wait_for_record(bus: Bus, turn_id: str) -> EpisodeRecorded:
    with anyio.fail_after(60):
        while (record := await bus.last(EpisodeRecorded, turn_id, stream=EPISODES)) is None:
            await anyio.sleep(0.05)
    return record


@pytest.mark.parametrize("stream", [False, True])
async def test_a_cut_answer_reaches_the_client_and_the_record(
    bus: Bus, http: httpx.AsyncClient, worker: BusyWorker, stream: bool
) -> None:
    counts = {
        path: degraded_count(path) for path in ("negotiator.cut_short", "catfish.cut_short", "antibias.cut_short")
    }
    worker.left, started = 1.5, time.monotonic()
    text, finish, turn_id = await ask(http, stream=stream)
    assert (text, finish) == (TEXTS[0], "length")
    assert SECONDS - 1.6 < time.monotonic() - started < SECONDS
    episode = (await wait_for_record(bus, turn_id)).episode
    assert (episode.cut, episode.answer, episode.outcome) == (True, TEXTS[0], "passed")
    assert not episode.bias.checked
    assert "time was over" in episode.bias.reason
    assert {path: degraded_count(path) - count for path, count in counts.items()} == dict.fromkeys(counts, 1.0)


async def test_jobs_that_nobody_answers_cost_the_check_and_not_the_answer(
    bus: Bus, http: httpx.AsyncClient, worker: BusyWorker
) -> None:
    worker.left, started = 0.0, time.monotonic()
    text, finish, turn_id = await ask(http, stream=False)
    assert (text, finish) == (TEXTS[0], "stop")
    assert time.monotonic() - started < SECONDS
    episode = (await wait_for_record(bus, turn_id)).episode
    assert (episode.cut, episode.bias.checked) == (False, False)
    assert msgspec.json.encode(episode)
