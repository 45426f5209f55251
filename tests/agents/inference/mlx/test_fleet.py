"""The fleet in small, served within a budget that holds five of its 35 adapters."""

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import mlx.core as mx
import pytest

from schemas.errors import StageFailed
from schemas.findings import AdapterUse, Candidate
from tests.agents.inference import hybrid
from tests.agents.inference.fleet import DOMAINS, RESIDENT, Fleet, run_fleet

pytestmark = pytest.mark.anyio


def logprobs(candidate: Candidate) -> list[float]:
    assert candidate.tokens
    return [token.logprob for token in candidate.tokens]


@pytest.fixture(scope="module")
async def fleet(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> AsyncIterator[Fleet]:
    async with run_fleet(tmp_path_factory.mktemp("fleet"), small_model) as running:
        yield running


async def test_the_proportions_are_those_of_the_full_size(fleet: Fleet) -> None:
    assert len(DOMAINS) == 35
    assert fleet.size / fleet.base == pytest.approx(0.1, abs=0.01)
    assert set(fleet.bank.registered_names) == set(DOMAINS)
    assert [stranger.path.name for stranger in fleet.bank.registration.strangers] == ["notes"]
    kinds = {path.split(".", 4)[-1] for path in fleet.bank.check("rust").pairs}
    assert kinds == set(hybrid.KINDS)
    assert {pair.a.dtype for pair in fleet.bank.check("rust").pairs.values()} == {mx.bfloat16}


async def test_each_of_four_in_a_batch_answers_as_it_does_alone(fleet: Fleet) -> None:
    names = DOMAINS[:4]
    alone = {name: await fleet.ask(name) for name in names}
    together = await fleet.ask_together(names)
    assert {use.name for use in fleet.bank.active} >= set(names), "they decoded side by side"
    for name in names:
        (use,) = together[name].adapters
        assert (use.name, use.sha256) == (name, fleet.digest(name))
        assert together[name].text == alone[name].text
        assert logprobs(together[name]) == pytest.approx(logprobs(alone[name]), abs=2e-3)
    for name in names[1:]:
        assert logprobs(together[name]) != pytest.approx(logprobs(together[names[0]]), abs=2e-3)


async def test_four_others_take_their_place_within_the_budget(fleet: Fleet) -> None:
    await fleet.ask_together(DOMAINS[4:8])
    assert len([use for use in fleet.bank.active if use.name in DOMAINS[4:8]]) == 4
    assert fleet.bank.resident_bytes <= RESIDENT * fleet.size


async def test_all_of_the_fleet_answer_and_the_budget_is_kept(fleet: Fleet) -> None:
    for name in DOMAINS:
        (use,) = (await fleet.ask(name)).adapters
        assert (use.name, use.sha256) == (name, fleet.digest(name))
        assert fleet.bank.resident_bytes <= RESIDENT * fleet.size
    assert DOMAINS[-1] in fleet.bank.resident
    assert DOMAINS[0] not in fleet.bank.resident


async def test_more_sets_than_fit_wait_for_each_other(fleet: Fleet) -> None:
    assert fleet.bank.fit_together([(AdapterUse(name=name),) for name in DOMAINS[:RESIDENT]])
    assert not fleet.bank.fit_together([(AdapterUse(name=name),) for name in DOMAINS[: RESIDENT + 1]])
    together = await fleet.ask_together(DOMAINS[:8])
    assert {name: candidate.adapters[0].sha256 for name, candidate in together.items()} == {
        name: fleet.digest(name) for name in DOMAINS[:8]
    }
    assert fleet.bank.resident_bytes <= RESIDENT * fleet.size


async def test_two_adapters_in_one_reply_beside_a_third(fleet: Fleet) -> None:
    alone = await fleet.ask("rust", "sql")
    candidates: list[Candidate] = []

    async def ask(*names: str) -> None:
        candidates.append(await fleet.ask(*names))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(ask, "rust", "sql")
        tasks.start_soon(ask, "docker")
    (both,) = (candidate for candidate in candidates if len(candidate.adapters) == 2)
    assert logprobs(both) == pytest.approx(logprobs(alone), abs=2e-3)
    assert fleet.bank.resident_bytes <= RESIDENT * fleet.size


async def test_a_name_of_the_base_is_refused_by_the_bank(fleet: Fleet) -> None:
    with pytest.raises(StageFailed, match="not registered"):
        await fleet.engine.administer("load", "notes")
