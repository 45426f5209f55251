"""dream-of-kiki's runtime drives ours from plain Python: fetch, replay, downscale, swap, mark."""

from pathlib import Path

import anyio.to_thread
import msgspec
import numpy as np
import pytest

from agents.dream.substrate import KikiSubstrate
from bus.connection import Bus
from schemas.dream import DreamRequest
from schemas.errors import InvalidInput, KikiError
from tests.agents.dream.test_profiles import episode
from tests.agents.dream.test_swap import dreaming, export_mine
from tests.agents.services.scenes import record, run_services

pytestmark = pytest.mark.anyio


async def test_an_outside_runtime_replays_records_and_swaps_the_adapter(bus: Bus, tmp_path: Path) -> None:
    def drive() -> tuple[str, int]:
        with KikiSubstrate(bus.settings.url, "mine", service="sleeper", learning_rate=0.01) as substrate:
            records = substrate.fetch_unconsumed(8)
            assert [row["context"] for row in records] == ["first", "second"]
            learn = substrate.replay_handler_factory()
            change = learn(records, 3)
            assert np.any(change)
            assert change.size == sum(value.size for value in substrate.adapter.values())
            assert not learn([], 3).any()
            shrink = substrate.downscale_handler_factory()
            substrate.adapter = {key: shrink(value, 0.99) for key, value in substrate.adapter.items()}
            reply = substrate.swap("de-sleeper")
            substrate.mark_consumed([row["id"] for row in records], "de-sleeper")
            assert substrate.base_sha256 == reply.sha256
            return reply.sha256, len(substrate.fetch_unconsumed(8))

    async with dreaming(bus, tmp_path), run_services(bus):
        before = await export_mine(bus)
        await record(bus, ["first", "second"])
        sha256, remaining = await anyio.to_thread.run_sync(drive)
        assert ((await export_mine(bus)).sha256, remaining) == (sha256, 0)
        assert sha256 != before.sha256


async def test_the_substrate_has_the_runtime_execute_an_episode(bus: Bus, tmp_path: Path) -> None:
    def drive() -> str:
        with KikiSubstrate(bus.settings.url, "mine", service="sleeper") as substrate:
            bad = substrate.consume_episode(
                DreamRequest(profile="P_min", episode=episode("downscale", episode_id="de-poor", budget=poor))
            )
            assert (bad.state, bad.param) == ("aborted", "episode.budget.flops")
            return substrate.consume_episode(DreamRequest(profile="P_min", episode=episode("downscale"))).state

    poor = msgspec.structs.replace(episode("downscale").budget, flops=1.0)
    async with dreaming(bus, tmp_path), run_services(bus):
        assert await anyio.to_thread.run_sync(drive) == "done"


async def test_an_unknown_adapter_is_named(bus: Bus, tmp_path: Path) -> None:
    def drive() -> None:
        with KikiSubstrate(bus.settings.url, "nobody", service="sleeper"):
            raise AssertionError

    async with dreaming(bus, tmp_path), run_services(bus):
        with pytest.raises(KikiError) as caught:
            await anyio.to_thread.run_sync(drive)
        assert caught.value.code == "adapter_failed"


def test_pure_handlers_work_without_a_runtime() -> None:
    substrate, random = KikiSubstrate("nats://127.0.0.1:1", "mine"), np.random.default_rng(0)
    prior, side = random.standard_normal((6, 2)) @ random.standard_normal((2, 4)), random.standard_normal((6, 2))
    project = substrate.restructure_handler_factory()
    after = project({"prior_deltas": [prior], "b": side}, "oplora", "b")["b"]
    np.testing.assert_allclose(prior.T @ after, 0.0, atol=1e-9)
    np.testing.assert_array_equal(project({"b": side}, "project", "b")["b"], side)
    merge = substrate.recombine_handler_factory(trim_fraction=1.0)
    np.testing.assert_allclose(merge({"deltas": [prior, prior]}, "ties"), prior)
    for wrong in (
        lambda: project({"b": side}, "activate", "b"),
        lambda: project({"b": side}, "oplora", "a"),
        lambda: merge({"deltas": []}, "ties"),
        lambda: merge({"deltas": [prior, side]}, "ties"),
        lambda: substrate.downscale_handler_factory()(side, 0.0),
    ):
        with pytest.raises(InvalidInput):
            wrong()
