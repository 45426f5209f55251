"""One question to real stores: the newer fact first, and the past as it was."""

import time
from pathlib import Path

import msgspec
import pytest

from agents.memory.context import unit as normal
from agents.memory.projection import project_episodes
from agents.memory.ranking import keep_relevant
from agents.memory.search import find
from agents.memory.settings import MemorySettings
from agents.memory.stores.pair import Stores
from agents.memory.stores.stored import Lookup
from agents.memory.text.words import WordEncoder
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


async def test_a_newer_home_leads_though_neither_words_nor_vector_find_it(tmp_path: Path) -> None:
    settings = MemorySettings(data_dir=tmp_path / "memory", vector_size=SIZE, candidates=2, max_hits=2)
    at_home = normal([a + b for a, b in zip(unit(1), unit(2), strict=True)]).tolist()
    episodes = [
        episode("old", question="I live in Beijing.", answer="", at=100.0, vector=unit(1)),
        episode("new", session="s2", question="I moved to Shanghai last week.", answer="", at=200.0, vector=at_home),
        *(
            episode(f"other{n}", session=f"o{n}", question=f"Where plants live {n}.", answer="", at=150.0, vector=near)
            for n, near in enumerate(normal([0.9 * a + b for a, b in zip(unit(1), unit(9 + n), strict=True)]).tolist()
                                     for n in range(3))
        ),
    ]  # fmt: skip
    lookup = Lookup(owner=owner(), vector=unit(1), text="Where do I live?", limit=2)
    stores, words = Stores(settings), WordEncoder()
    async with stores.open(do_nothing), stores.write_lock:
        await project_episodes(stores, episodes)
        matches = {match.turn_id for match in await stores.atlas.search(lookup)}
        assert "old" in matches
        assert "new" not in matches
        ranking = await find(stores, lookup, now=300.0, settings=settings)
        relevant = list(keep_relevant(ranking, text=lookup.text, words=words, settings=settings))
        assert [candidate.match.turn_id for candidate in relevant][:2] == ["new", "old"]
        within = await find(stores, msgspec.structs.replace(lookup, session_id="s1"), now=300.0, settings=settings)
        assert [candidate.match.turn_id for candidate in within] == ["old"]
        past = await find(stores, msgspec.structs.replace(lookup, as_of=160.0), now=160.0, settings=settings)
        assert "new" not in {candidate.match.turn_id for candidate in past}


@pytest.mark.parametrize(
    ("older", "newer", "is_replaced"),
    [
        ("My son is allergic to peanuts.", "My daughter is allergic to peanuts.", False),
        ("Mon fils est allergique aux arachides.", "Ma fille est allergique aux arachides.", False),
        ("I have dinner with Paul on Monday.", "I have dinner with Paul on Friday.", False),
        ("The cat is called Milo.", "The cat is called Otto.", True),
        ("J'aime le thé.", "Je n'aime plus le thé.", True),
    ],
)
async def test_recall_and_graph_agree_on_what_is_replaced(
    tmp_path: Path, older: str, newer: str, is_replaced: bool
) -> None:
    settings = MemorySettings(data_dir=tmp_path / "memory", vector_size=SIZE)
    episodes = [
        episode("old", session="s1", question=older, answer="", at=100.0, vector=unit(1)),
        episode("new", session="s2", question=newer, answer="", at=200.0, vector=unit(1)),
    ]
    stores = Stores(settings)
    async with stores.open(do_nothing), stores.write_lock:
        await project_episodes(stores, episodes)
        edges = (await stores.trace.edges(tenant="ann"))["SUPERSEDES"]
        ranking = await find(stores, Lookup(owner=owner(), vector=unit(1)), now=300.0, settings=settings)
    old_id, new_id = (item.episode_id for item in episodes)
    assert edges == ([(new_id, old_id)] if is_replaced else [])
    replaced = {item.match.episode_id: item.newer for item in ranking}
    assert replaced == {old_id: new_id if is_replaced else None, new_id: None}
