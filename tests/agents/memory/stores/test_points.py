"""One contract for vectors and words, over qdrant-edge, qdrant-client's own store, and the server of ``QDRANT_URL``."""

import itertools
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from qdrant_client import AsyncQdrantClient

from agents.memory.context import unpacked, windows
from agents.memory.episodes import store_key
from agents.memory.ranking import Match
from agents.memory.settings import MemorySettings
from agents.memory.stores.edge import EdgeAtlas
from agents.memory.stores.points import CONFIG, SEARCH_THREADS
from agents.memory.stores.protocols import AtlasStore
from agents.memory.stores.qdrant import QdrantAtlas
from agents.memory.stores.stored import Lookup
from schemas.episode import Episode
from schemas.errors import SetupError, Unavailable
from tests.agents.memory.conftest import qdrant_settings, skip_without
from tests.agents.memory.scenes import SIZE, episode, owner, unit

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect:UserWarning"),  # in the client's own store
]

_fresh = itertools.count()

STORES = ["edge", "qdrant", pytest.param("server", marks=skip_without("QDRANT_URL"))]


def make_store(kind: str, path: Path) -> AtlasStore:
    """An Atlas of that kind; ``qdrant`` is the client's own store in memory, which speaks like the server."""
    if kind == "edge":
        return EdgeAtlas(MemorySettings(data_dir=path, vector_size=SIZE))
    if kind == "server":
        return QdrantAtlas.of(qdrant_settings(path))
    return QdrantAtlas(AsyncQdrantClient(":memory:"), MemorySettings(data_dir=path, vector_size=SIZE))


@pytest.fixture(params=STORES)
async def atlas(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[AtlasStore]:
    """An empty store."""
    store = make_store(request.param, tmp_path)
    assert request.param == "server" or not await store.load()
    await store.renew()
    yield store
    await store.close()


async def place(atlas: AtlasStore, *episodes: Episode) -> None:
    """Store episodes that have no neighbours."""
    await atlas.place(episodes, {})


async def search(
    atlas: AtlasStore, vector: Sequence[float], *, tenant: str = "ann", limit: int = 10, **more: Any
) -> list[Match]:
    """Nearest first."""
    matches = await atlas.search(Lookup(owner=owner(tenant), vector=tuple(vector), limit=limit, **more))
    return sorted(matches, key=lambda match: -match.similarity)


async def test_an_episode_is_found_by_its_vector_with_all_its_fields(atlas: AtlasStore) -> None:
    await place(
        atlas, episode("t1", question="Où ?", answer="Là.", at=12.5, vector=unit(1)), episode("t2", vector=unit(2))
    )
    first, _ = await search(atlas, unit(1), tenant="ann", limit=5)
    assert (first.turn_id, first.question, first.answer, first.created_at) == ("t1", "Où ?", "Là.", 12.5)
    assert first.episode_id == episode("t1").episode_id
    assert first.similarity == pytest.approx(1.0, abs=1e-5)


async def test_storing_an_episode_again_changes_nothing(atlas: AtlasStore) -> None:
    for _ in range(3):
        await place(atlas, episode("t1", vector=unit(1)))
    assert await atlas.count() == 1
    assert len(await search(atlas, unit(1), tenant="ann", limit=5)) == 1


async def test_the_nearest_come_and_no_more_than_the_limit(atlas: AtlasStore) -> None:
    await place(atlas, *(episode(f"t{n}", vector=unit(n)) for n in range(20)))
    assert (await search(atlas, unit(3), tenant="ann"))[0].turn_id == "t3"
    assert len(await search(atlas, unit(3), tenant="ann", limit=4)) == 4


async def test_a_session_filters_within_the_tenant(atlas: AtlasStore) -> None:
    await place(atlas, episode("t1", session="a", vector=unit(1)), episode("t2", session="b", vector=unit(1)))
    assert [match.turn_id for match in await search(atlas, unit(1), tenant="ann", session_id="b", limit=5)] == ["t2"]
    assert await search(atlas, unit(1), tenant="bob", session_id="b", limit=5) == []


async def test_two_tenants_with_the_same_episode_id_keep_their_own(atlas: AtlasStore) -> None:
    mine = episode("t1", tenant="ann", answer="mine", vector=unit(1))
    theirs = msgspec.structs.replace(mine, tenant="bob", answer="theirs")
    await place(atlas, mine, theirs)
    assert [match.answer for match in await search(atlas, unit(1), tenant="ann", limit=5)] == ["mine"]
    assert [match.answer for match in await search(atlas, unit(1), tenant="bob", limit=5)] == ["theirs"]


@examples(max_examples=15, suppress_health_check=list(HealthCheck))
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3)), min_size=1, max_size=25))
async def test_a_tenant_never_sees_the_text_of_another(atlas: AtlasStore, turns: list[tuple[int, int]]) -> None:
    prefix = next(_fresh)
    await place(
        atlas,
        *(
            episode(
                f"{prefix}-{n}",
                tenant=f"{prefix}.tenant{speaker}",
                answer=f"secret of {prefix}.tenant{speaker}",
                vector=unit(seed),
            )
            for n, (speaker, seed) in enumerate(turns)
        ),
    )
    for speaker in range(8):
        own = [n for n, (teller, _) in enumerate(turns) if teller == speaker]
        for seed in range(4):
            matches = await search(
                atlas, unit(seed), tenant=f"{prefix}.tenant{speaker}", limit=100, text="secret question"
            )
            assert {match.answer for match in matches} <= {f"secret of {prefix}.tenant{speaker}"}
            assert {match.turn_id for match in matches} == {f"{prefix}-{n}" for n in own}


async def test_words_bring_what_the_vector_does_not_with_every_score(atlas: AtlasStore) -> None:
    await place(atlas, *(episode(f"t{n}", question=f"talk {n}", vector=unit(n)) for n in range(30)))
    await place(
        atlas,
        episode("rare", question="The quetzals were nesting.", vector=unit(99)),
        episode("bare", question="quetzal"),
    )
    matches = {
        match.turn_id: match for match in await search(atlas, unit(1), limit=3, text="Where does a quetzal nest?")
    }
    assert {"t1", "rare", "bare"} <= set(matches)
    assert matches["rare"].lexical > matches["bare"].lexical > 0.0
    assert matches["t1"].lexical == 0.0
    assert matches["t1"].similarity == pytest.approx(1.0, abs=1e-5)
    assert abs(matches["rare"].similarity) < 0.6
    assert await search(atlas, unit(1), tenant="bob", text="quetzal") == []


async def test_as_of_asks_the_past(atlas: AtlasStore) -> None:
    await place(atlas, *(episode(f"t{n}", at=float(n), vector=unit(1)) for n in range(4)))
    assert {match.turn_id for match in await search(atlas, unit(1), text="question", as_of=1.0)} == {"t0", "t1"}


async def test_spans_ask_certain_times(atlas: AtlasStore) -> None:
    await place(atlas, *(episode(f"t{n}", at=float(n), vector=unit(1)) for n in range(6)))
    within = ((1.0, 2.0), (3.5, 5.0))
    assert {match.turn_id for match in await search(atlas, unit(1), text="question", within=within)} == {"t1", "t4"}
    found = await search(atlas, unit(1), text="question", within=within, as_of=3.0)
    assert {match.turn_id for match in found} == {"t1"}


async def test_neighbours_lend_their_words_and_meaning_however_they_arrive(atlas: AtlasStore) -> None:
    episodes = [episode(f"t{n}", question=f"word{n}", answer="", at=float(n), vector=unit(n)) for n in range(6)]
    names = [store_key("ann", "episode", entry.episode_id) for entry in episodes]
    results = []
    for order in [(0, 1, 2, 3, 4, 5), (5, 3, 1, 0, 2, 4)]:
        await atlas.renew()
        for at, n in enumerate(order):
            there = sorted(order[: at + 1])
            await atlas.place([episodes[n]], windows([names[m] for m in there], [names[n]]))
        matches = {match.turn_id: match for match in await search(atlas, unit(2), text="word2")}
        lexical = {turn: match.lexical for turn, match in matches.items()}
        assert lexical["t2"] > lexical["t1"] > lexical["t0"] > 0.0
        assert lexical["t1"] == pytest.approx(lexical["t3"], rel=0.2)
        assert lexical["t2"] == max(lexical.values())
        own = unpacked(matches["t1"].vector)
        assert own is not None
        assert matches["t1"].similarity > float(own @ np.array(unit(2)))
        results.append(
            sorted(
                (match.turn_id, round(match.similarity, 6), match.vector, round(match.lexical, 6))
                for match in matches.values()
            )
        )
    assert results[0] == results[1]


async def test_a_removed_episode_leaves_nothing_in_its_neighbours(atlas: AtlasStore) -> None:
    episodes = [episode(f"t{n}", question=f"word{n}", at=float(n), vector=unit(n)) for n in range(3)]
    names = [store_key("ann", "episode", entry.episode_id) for entry in episodes]
    await atlas.place(episodes, windows(names, names))
    assert len([m for m in await search(atlas, unit(1), text="word1") if m.lexical > 0]) == 3
    await atlas.remove([names[1]], windows([names[0], names[2]], [names[0], names[2]]))
    assert await atlas.keys() == {names[0], names[2]}
    assert [m.turn_id for m in await search(atlas, unit(1), text="word1") if m.lexical > 0] == []


async def test_a_vector_of_another_size_is_refused(atlas: AtlasStore) -> None:
    with pytest.raises(Unavailable, match="atlas failed"):
        await search(atlas, unit(1, size=SIZE // 2), tenant="ann", limit=1)


async def test_keys_and_texts_are_read_by_tenant_and_by_name(atlas: AtlasStore) -> None:
    mine, theirs = episode("t1", answer="mine", vector=unit(1)), episode("t1", tenant="bob", answer="theirs")
    await place(atlas, mine, theirs)
    names = {entry.tenant: store_key(entry.tenant, "episode", entry.episode_id) for entry in (mine, theirs)}
    assert await atlas.keys() == set(names.values())
    assert await atlas.keys(tenant="ann") == {names["ann"]}
    matches = await atlas.read([names["ann"], store_key("ann", "episode", "none")])
    assert {name: entry.answer for name, entry in matches.items()} == {names["ann"]: "mine"}
    assert await atlas.read([]) == {}


async def test_both_stores_score_alike(tmp_path: Path) -> None:
    episodes = [episode(f"t{n}", question=f"talk {n} of word{n % 3}", at=float(n), vector=unit(n)) for n in range(12)]
    names = [store_key("ann", "episode", entry.episode_id) for entry in episodes]
    results = []
    for kind in ("edge", "qdrant"):
        store = make_store(kind, tmp_path / kind)
        await store.renew()
        await store.place(episodes, windows(names, names))
        matches = await search(store, unit(3), text="word2 talk", limit=20)
        results.append({match.turn_id: (match.similarity, match.lexical) for match in matches})
        await store.close()
    assert results[0].keys() == results[1].keys()
    for turn, scores in results[0].items():
        assert scores == pytest.approx(results[1][turn], abs=1e-4)


@pytest.mark.parametrize(
    ("change", "field", "why"),
    [
        ({"qdrant_url": "http://127.0.0.1:9"}, "qdrant_url", "no Qdrant server answers"),
        ({"qdrant_url": "http://[nonsense"}, "qdrant_url", "no address"),
    ],
)
async def test_a_server_that_cannot_be_used_is_one_line(
    tmp_path: Path, change: dict[str, str], field: str, why: str
) -> None:
    with pytest.raises(SetupError, match=why) as error:
        await QdrantAtlas.of(MemorySettings(data_dir=tmp_path, atlas="qdrant", store_timeout=1.0, **change)).load()  # type: ignore[arg-type]
    assert error.value.param == f"agents.memory.{field}"
    assert "\n" not in error.value.message


async def test_a_collection_of_another_size_is_refused(tmp_path: Path) -> None:
    client = AsyncQdrantClient(":memory:")
    wide = QdrantAtlas(client, MemorySettings(data_dir=tmp_path, vector_size=SIZE))
    await wide.renew()
    assert await wide.load()
    with pytest.raises(SetupError, match="64 floats") as error:
        await QdrantAtlas(client, MemorySettings(data_dir=tmp_path, vector_size=32)).load()
    assert error.value.param == "agents.memory.qdrant_collection"
    await wide.close()


async def test_a_shard_searches_on_one_thread_whoever_made_it(tmp_path: Path) -> None:
    first_store = make_store("edge", tmp_path)
    assert not await first_store.load()
    await first_store.renew()
    await place(first_store, episode("one"))
    await first_store.close()
    (config,) = tmp_path.rglob(CONFIG)
    content = json.loads(config.read_text())
    assert content["max_search_threads"] == SEARCH_THREADS
    config.write_text(json.dumps({**content, "max_search_threads": None}))

    reopened_store = make_store("edge", tmp_path)
    assert await reopened_store.load()
    assert await reopened_store.count() == 1
    await reopened_store.close()
    assert json.loads(config.read_text())["max_search_threads"] == SEARCH_THREADS
