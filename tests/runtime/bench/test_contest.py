"""The sums of the contest; the contestants themselves are run by ``kiki bench worker``."""

import pytest

from runtime.bench.contest import Reply, Throughput, merge_rounds, prompts, race

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
