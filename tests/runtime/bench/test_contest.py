"""The sums of the contest; the contestants themselves are run by ``kiki bench worker``."""

import json
from typing import Any

import httpx
import pytest

from runtime.bench.contest import HttpContestant, Reply, Throughput, merge_rounds, prompts, race, reach_llama
from schemas.errors import Unavailable

pytestmark = pytest.mark.anyio


async def test_a_race_counts_all_tokens_and_takes_the_adapters_in_turn() -> None:
    adapters: list[str | None] = []

    async def ask(question: str, adapter: str | None, max_tokens: int) -> Reply:
        adapters.append(adapter)
        return Reply(max_tokens, 0.1 * len(adapters), 1.0)

    rate = await race(ask, prompts(5), concurrency=2, max_tokens=7, adapters=["a", "b"])
    assert (rate.tokens, rate.requests) == (35, 5)
    assert sorted(adapters, key=str) == ["a", "a", "a", "b", "b"]
    assert rate.first_token == pytest.approx(0.3)


def test_rounds_join_by_their_time() -> None:
    throughput = merge_rounds([Throughput(10.0, 0.1, 1, 10), Throughput(5.0, 0.3, 1, 10)])
    assert throughput.tokens_per_second == pytest.approx(20 / 3)
    assert throughput.first_token == pytest.approx(0.2)


def test_prompts_share_no_beginning() -> None:
    assert len({prompt[:6] for prompt in prompts(20, first=100)}) == 20


@pytest.mark.parametrize(("usage", "tokens"), [({"completion_tokens": 7}, 7), (None, 2)])
async def test_a_reply_has_the_tokens_that_the_server_counts_or_else_its_chunks(
    usage: dict[str, int] | None, tokens: int
) -> None:
    bodies = []

    def answer(request: httpx.Request) -> httpx.Response:
        bodies.append(json.loads(request.content))
        chunks: list[dict[str, Any]] = [{"choices": [{"delta": {"content": text}}]} for text in ("", "Salt ", "water")]
        chunks.append({"choices": [{"delta": {}}], "usage": usage})
        lines = [*(f"data: {json.dumps(chunk)}" for chunk in chunks), "data: [DONE]"]
        return httpx.Response(200, text="\n\n".join(lines))

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://there") as client:
        reply = await HttpContestant(client, "llama.cpp", {"temperature": 0.0})("Why?", "adapter", 9)
    assert reply.tokens == tokens
    assert 0 < reply.first <= reply.total
    assert bodies[0]["temperature"] == 0.0
    assert bodies[0]["max_tokens"] == 9
    assert "adapters" not in bodies[0]


async def test_a_refusal_names_the_server() -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(400, text="no such field"))
    async with httpx.AsyncClient(transport=transport, base_url="http://there") as client:
        with pytest.raises(Unavailable, match=r"llama\.cpp: .*no such field"):
            await HttpContestant(client, "llama.cpp", {})("Why?", None, 9)


async def test_a_llama_server_that_is_not_there_is_unavailable() -> None:
    async with reach_llama(None) as contestant:
        assert contestant is None
    with pytest.raises(Unavailable, match=r"no llama\.cpp server answers at http://127\.0\.0\.1:9"):
        async with reach_llama("http://127.0.0.1:9/v1"):
            pass
