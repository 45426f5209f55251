"""One question to real stores: the newer fact first, and the past as it was."""

import time
from pathlib import Path

import msgspec
import pytest

from agents.memory.context import unit as normal
from agents.memory.projection import project_episodes
from agents.memory.search import find
from agents.memory.settings import MemorySettings
from agents.memory.stores.pair import Stores
from agents.memory.stores.points import Lookup
from tests.agents.memory.scenes import SIZE, episode, owner, unit

pytestmark = pytest.mark.anyio


async def do_nothing() -> None:
    """The stores begin empty."""


async def test_the_newer_fact_leads_and_the_past_knows_only_the_older(tmp_path: Path) -> None:
    settings = MemorySettings(data_dir=tmp_path / "memory", vector_size=SIZE)
    budget, near = unit(1), normal([a + 0.1 * b for a, b in zip(unit(1), unit(2), strict=True)])
    episodes = [
        episode("old", question="My budget is 1200 euros.", answer="", at=100.0, vector=budget),
        episode("new", session="s2", question="My budget is 1500 euros.", answer="", at=200.0, vector=near.tolist()),
        episode("else", session="s3", question="The cat sleeps.", answer="", at=150.0, vector=unit(3)),
    ]
    lookup = Lookup(owner=owner(), vector=budget, text="What is my budget in euros?")
    stores = Stores(settings)
    async with stores.open(do_nothing), stores.write_lock:
        await project_episodes(stores, episodes)
        today = await find(stores, lookup, now=300.0, settings=settings)
        assert [candidate.match.turn_id for candidate in today][:2] == ["new", "old"]
        assert f"superseded by {episodes[1].episode_id}" in today[1].reasons
        past = await find(stores, msgspec.structs.replace(lookup, as_of=160.0), now=160.0, settings=settings)
        assert [candidate.match.turn_id for candidate in past] == ["old", "else"]
        assert past[0].newer is None
        assert all(candidate.reasons for candidate in past)


async def test_a_date_brings_what_neither_the_vector_nor_the_words_would(tmp_path: Path) -> None:
    settings = MemorySettings(data_dir=tmp_path / "memory", vector_size=SIZE)
    day = 86400.0
    noon = 1000 * day + day / 2
    others = [
        episode(
            f"t{n}", session=f"s{n}", question=f"Lunch number {n}.", answer="", at=noon + (5 + n) * day, vector=unit(1)
        )
        for n in range(4)
    ]
    then = episode("then", session="then", question="Soup.", answer="", at=noon, vector=unit(2))
    stores = Stores(settings)
    async with stores.open(do_nothing), stores.write_lock:
        await project_episodes(stores, [*others, then])
        asked = time.strftime("%Y-%m-%d", time.localtime(noon))
        lookup = Lookup(owner=owner(), vector=unit(1), text=f"Lunch on {asked}?", limit=2)
        dated = await find(stores, lookup, now=noon + 30 * day, settings=settings)
        assert "then" in {candidate.match.turn_id for candidate in dated if candidate.dated}
        undated = await find(stores, msgspec.structs.replace(lookup, text="Lunch?"), now=0.0, settings=settings)
        assert "then" not in {candidate.match.turn_id for candidate in undated}
