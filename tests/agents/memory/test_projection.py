"""What newer episodes replace, over both pairs of stores, in whatever order they come."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from agents.memory.context import unit as normalised
from agents.memory.episodes import store_key
from agents.memory.projection import project_episodes
from agents.memory.stores.pair import Stores
from schemas.episode import Episode
from tests.agents.memory.pairs import PAIRS, pair_settings
from tests.agents.memory.scenes import episode, unit

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect:UserWarning"),
]


def utterance(turn: str, text: str, *, at: float, lean: float = 0.0, **more: str) -> Episode:
    """An utterance about something; two of one topic are alike unless one leans away."""
    vector = tuple(normalised([a + lean * b for a, b in zip(unit(1), unit(2), strict=True)]).tolist())
    plain = episode(turn, question=text, answer="", at=at, session=f"of-{turn}", vector=vector)
    return replace(plain, **more)


async def do_nothing() -> None:
    """There is no record."""


@pytest.fixture(params=PAIRS)
def stores(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stores:
    return Stores(pair_settings(request, tmp_path, monkeypatch))


@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4, 5), (5, 2, 0, 4, 1, 3)])
async def test_a_newer_fact_replaces_older_ones(stores: Stores, order: tuple[int, ...]) -> None:
    episodes = [
        utterance("first", "My budget is 1200 euros.", at=1.0),
        utterance("second", "My budget is 1500 euros.", at=2.0),
        utterance("third", "My budget is 1800 euros.", at=3.0),
        utterance("again", "my budget is  1800 euros.", at=4.0),
        utterance("other", "My budget is a riddle.", at=5.0, lean=1.0),
        utterance("theirs", "My budget is 7 euros.", at=7.0, speaker="Bob"),
    ]
    async with stores.open(do_nothing):
        await stores.renew(do_nothing)
        for n in order:
            await project_episodes(stores, [episodes[n]], recorded_at={episodes[n].episode_id: 100.0 + n})
        names = {item.episode_id: item.turn_id for item in episodes}
        edges = (await stores.trace.edges(tenant="ann"))["SUPERSEDES"]
        assert {(names[newer], names[older]) for newer, older in edges} == {
            ("second", "first"),
            ("third", "first"),
            ("third", "second"),
            ("again", "first"),
            ("again", "second"),
        }
        keys = {store_key("ann", "episode", name): turn for name, turn in names.items()}
        replacements = await stores.trace.find_superseded(keys, as_of=3.0)
        assert {keys[item]: keys[by] for item, by in replacements.items()} == {"first": "third", "second": "third"}
        assert await stores.trace.find_superseded(keys, as_of=2.5, known=100.5) == {}


async def test_a_summary_marks_its_parts_whichever_comes_first(stores: Stores) -> None:
    parts = [utterance(f"p{n}", f"Note {n}.", at=float(n)) for n in range(3)]
    parts[2] = utterance("p2", "Quetzals nest in Guatemala.", at=2.0)  # the summary leaves it out
    whole = replace(utterance("whole", "Notes.", at=2.0), summarises=tuple(item.episode_id for item in parts))
    async with stores.open(do_nothing):
        await stores.renew(do_nothing)
        for item in (parts[0], whole, parts[1], parts[2], parts[0]):
            await project_episodes(stores, [item])
        matches = await stores.atlas.read([store_key("ann", "episode", item.episode_id) for item in (*parts, whole)])
        assert {item.turn_id: item.summary for item in matches.values()} == {
            **dict.fromkeys(("p0", "p1"), whole.episode_id),
            **dict.fromkeys(("p2", "whole"), ""),
        }


async def test_utterances_of_one_moment_do_not_replace_each_other(stores: Stores) -> None:
    """Times as a clock gives them: the embedded store returns those of n = 3 and 4 with another last bit."""
    episodes = [
        utterance(f"{side}{n}", f"The code is {side}{n}.", at=1_795_442_188 + n / 7)
        for n in range(1, 8)
        for side in "ab"
    ]
    async with stores.open(do_nothing):
        await stores.renew(do_nothing)
        for item in episodes:
            await project_episodes(stores, [item])
        moments = {item.episode_id: item.created_at for item in episodes}
        edges = (await stores.trace.edges(tenant="ann"))["SUPERSEDES"]
        assert len(edges) == 4 * 7 * 6 // 2
        assert all(moments[newer] > moments[older] for newer, older in edges)
