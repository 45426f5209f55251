"""Memory stays with its owner: many tenants, users and conversations over both pairs of stores."""

import random
import re
from collections.abc import Iterable
from contextlib import aclosing
from pathlib import Path

import msgspec
import pytest

from agents.memory.episodes import owner_key
from agents.memory.settings import MemorySettings
from agents.memory.stores.pair import Stores
from bus import metrics
from bus.connection import Bus
from bus.stream import read_stream
from bus.topology import DEAD, EPISODES, TURNS
from runtime.records.transfer import export_lines
from schemas.calls import (
    MEMORY_CONVERSATION,
    MEMORY_FORGET,
    MEMORY_REBUILD,
    MEMORY_SEARCH,
    MEMORY_SESSION,
    MEMORY_SLEEP,
    MEMORY_VERIFY,
)
from schemas.chat import Message, digest_transcript
from schemas.codec import encode
from schemas.envelope import Envelope, new_turn
from schemas.errors import InvalidInput
from schemas.events import AnswerReady, EpisodeRecorded, QueryRouted, RecallDone, TurnCancelled
from schemas.findings import MemoryScope, RecalledEpisode
from schemas.jobs import Job
from schemas.memory import (
    ConversationRequest,
    ForgetRequest,
    RebuildRequest,
    SearchRequest,
    SessionRequest,
    SleepRequest,
    VerifyRequest,
)
from schemas.status import DeadLetter
from tests.agents.memory.memories import eventually, run_memory_agent
from tests.agents.memory.pairs import PAIRS, pair_settings
from tests.agents.memory.scenes import answer_ready, query_routed, unit
from tests.agents.scripted import scripted_worker, user_text

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:Payload indexes have no effect:UserWarning"),
]
both = pytest.mark.parametrize("settings", PAIRS, indirect=True)
here = pytest.mark.parametrize("settings", PAIRS[:1], indirect=True)

Whose = tuple[str, str, str]
"""A tenant, a user (or nobody) and a session."""

EVERYBODY = [
    (tenant, user, session) for tenant in ("ann", "bob") for user in ("", "mia", "tom") for session in ("s1", "s2")
]
SECRET = re.compile(r"code-(\d+)")


@pytest.fixture
async def settings(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MemorySettings:
    """A fresh memory on the pair of stores that the test names. It waits for hardly any turn that runs, and long for
    what was answered.
    """
    monkeypatch.setattr("agents.memory.forgetting.RUNNING_SECONDS", 0.5)
    memory_settings = msgspec.structs.replace(
        pair_settings(request, tmp_path, monkeypatch),
        max_hits=50,
        token_budget=100_000,
        same_fact=1.0,
        conversation_timeout=20.0,
    )

    stores = Stores(memory_settings)
    async with stores.open(_do_nothing):
        await stores.renew(_do_nothing)  # a server may have served another test
    return memory_settings


async def _do_nothing() -> None:
    """There is no record yet."""


def near(number: int) -> tuple[float, ...]:
    """Vectors so close to each other that each finds all."""
    generator = random.Random(number)
    raw = [value + generator.gauss(0.0, 0.02) for value in unit(1)]
    norm = sum(value * value for value in raw) ** 0.5
    return tuple(value / norm for value in raw)


def turn_of(whose: Whose) -> Envelope:
    tenant, user, session = whose
    return new_turn(tenant=tenant, user=user, session_id=session, timeout=20.0)


def may_read(reader: Whose, writer: Whose, memory: MemoryScope | None) -> bool:
    """The rule: within the user, or within the conversation where nobody is named or the request says so."""
    if memory == "none" or reader[:2] != writer[:2]:
        return False
    return reader == writer if memory == "conversation" or not reader[1] else True


class Scene:
    """What was said by whom; each text has a number of its own."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.said: dict[int, Whose] = {}

    async def say(self, whose: Whose) -> None:
        number = len(self.said) + 1
        self.said[number] = whose
        answer = answer_ready(
            turn_of(whose), near(number), text=f"The cellar has code-{number}.", answer=f"Noted code-{number}."
        )
        await self.bus.publish(answer)

    async def settle(self) -> None:
        await wait_until_stored(self.bus, len(self.said))

    def readable(self, reader: Whose, memory: MemoryScope | None = None) -> set[int]:
        return {number for number, writer in self.said.items() if may_read(reader, writer, memory)}

    async def recall(self, reader: Whose, memory: MemoryScope | None = None) -> set[int]:
        envelope = turn_of(reader)
        routed = query_routed(envelope, near(0), text="What is the code of the cellar?")
        query = msgspec.structs.replace(routed.query, memory=memory)
        await self.bus.publish(msgspec.structs.replace(routed, query=query))
        done = await eventually(lambda: self.bus.last(RecallDone, envelope.turn_id))
        return numbers_in(done.recall.hits)

    async def search(self, reader: Whose, session: str | None = None) -> set[int]:
        tenant, user, _ = reader
        request = SearchRequest(
            tenant=tenant, user=user, session_id=session, vector=near(0), text="code of the cellar", limit=100
        )
        return numbers_in((await self.bus.request(MEMORY_SEARCH, request, timeout=10.0)).hits)

    async def session(self, reader: Whose) -> set[int]:
        request = SessionRequest(tenant=reader[0], user=reader[1], session_id=reader[2])
        return numbers_in((await self.bus.request(MEMORY_SESSION, request, timeout=10.0)).episodes)

    async def export(self, reader: Whose) -> set[int]:
        async with aclosing(export_lines(self.bus, tenant=reader[0], user=reader[1])) as lines:
            return {int(number) async for line in lines for number in SECRET.findall(line)}


async def wait_until_stored(bus: Bus, count: int) -> None:
    """Wait until the record holds so many episodes, and both stores hold all of them."""

    async def is_whole() -> bool:
        reply = await bus.request(MEMORY_VERIFY, VerifyRequest(), timeout=10.0)
        return (reply.recorded, reply.waiting, reply.agrees) == (count, 0, True)

    await eventually(is_whole)


def numbers_in(episodes: Iterable[RecalledEpisode]) -> set[int]:
    return {int(number) for hit in episodes for number in SECRET.findall(hit.question + hit.answer)}


async def check_all(scene: Scene) -> None:
    """Everybody reads all that is theirs in every way, and nothing else."""
    for reader in EVERYBODY:
        mine, conversation = scene.readable(reader), scene.readable(reader, "conversation")
        assert await scene.recall(reader) == mine
        assert await scene.recall(reader, "conversation") == conversation
        assert await scene.recall(reader, "none") == set()
        assert await scene.session(reader) == conversation
        assert await scene.search(reader, reader[2]) == conversation
        of_the_user = {number for number, writer in scene.said.items() if writer[:2] == reader[:2]}
        assert await scene.export(reader) == of_the_user
        if reader[1]:
            assert await scene.search(reader) == of_the_user
        else:
            with pytest.raises(InvalidInput, match="name a user or a session"):
                await scene.search(reader)


@both
@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.soak) for seed in range(2, 8))])
async def test_nobody_reads_what_another_said_in_any_way(bus: Bus, settings: MemorySettings, seed: int) -> None:
    generator = random.Random(seed)
    async with run_memory_agent(bus, settings):
        scene = Scene(bus)
        for whose in [*EVERYBODY, *generator.choices(EVERYBODY, k=12)]:
            await scene.say(whose)
        await scene.settle()
        await check_all(scene)

        gone = generator.choice([whose for whose in EVERYBODY if whose[1]])
        forget = ForgetRequest(tenant=gone[0], user=gone[1], session_id=gone[2])
        reply = await bus.request(MEMORY_FORGET, forget, timeout=60.0)
        assert reply.episodes == sum(writer == gone for writer in scene.said.values())
        scene.said = {number: writer for number, writer in scene.said.items() if writer != gone}
        await check_all(scene)

        tenant, user, _ = gone
        rebuild = RebuildRequest(tenant=tenant, user=user)
        rebuilt = await bus.request(MEMORY_REBUILD, rebuild, timeout=60.0)
        assert rebuilt.episodes == sum(writer[:2] == (tenant, user) for writer in scene.said.values())
        await scene.settle()
        await check_all(scene)

        everything = ForgetRequest(tenant=tenant, user=user)
        await bus.request(MEMORY_FORGET, everything, timeout=60.0)
        scene.said = {number: writer for number, writer in scene.said.items() if writer[:2] != (tenant, user)}
        await scene.settle()
        await check_all(scene)


@both
async def test_a_summary_and_a_superseded_fact_stay_with_one_user(bus: Bus, settings: MemorySettings) -> None:
    def sum_up(job: Job) -> str:
        return " ".join(f"code-{number}" for number in SECRET.findall(user_text(job)))

    async with run_memory_agent(bus, settings) as agent, scripted_worker(bus, sum_up):
        scene = Scene(bus)
        for whose in EVERYBODY * 3:
            await scene.say(whose)
        await scene.settle()
        slept = await bus.request(MEMORY_SLEEP, SleepRequest(before=4e9), timeout=60.0)
        assert {(summary.tenant, summary.user) for summary in slept.merged} == {
            whose[:2] for whose in EVERYBODY if whose[1]
        }
        for summary in slept.merged:
            told = {scene.said[int(number)][:2] for number in SECRET.findall(summary.text)}
            assert told == {(summary.tenant, summary.user)}
        edges = [await agent._stores.trace.edges(tenant=tenant) for tenant in ("ann", "bob")]
        assert sum(len(kinds["SUMMARISES"]) for kinds in edges) == sum(
            len(summary.episodes) for summary in slept.merged
        )


@both
async def test_replacing_compares_within_one_owner(bus: Bus, settings: MemorySettings) -> None:
    alike = msgspec.structs.replace(settings, same_fact=0.5)
    async with run_memory_agent(bus, alike) as agent:
        names = ["Milo", "Otto", "Rex", "Kit"]
        for name in names:
            for whose in EVERYBODY:
                said = answer_ready(turn_of(whose), unit(1), text=f"The cat is called {name}.", answer="")
                await bus.publish(said)
            await wait_until_stored(bus, (names.index(name) + 1) * len(EVERYBODY))
        for tenant in ("ann", "bob"):
            for user in ("", "mia", "tom"):
                pairs = (await agent._stores.trace.edges(tenant=tenant, user=user))["SUPERSEDES"]
                episodes = [
                    event.episode
                    for event in await read_recorded(bus)
                    if (event.episode.tenant, event.episode.user) == (tenant, user)
                ]
                owners = {episode.episode_id: owner_key(tenant, user, episode.session_id) for episode in episodes}
                assert len({older for _, older in pairs}) >= len(set(owners.values()))
                assert {name for pair in pairs for name in pair} <= owners.keys()
                assert all(owners[newer] == owners[older] for newer, older in pairs)


async def read_recorded(bus: Bus) -> list[EpisodeRecorded]:
    async with aclosing(read_stream(bus, EPISODES, [bus.subjects.stage(EpisodeRecorded.subject)])) as messages:
        return [msgspec.json.decode(message.data, type=EpisodeRecorded) async for message in messages]


def dialogue(*texts: str) -> tuple[Message, ...]:
    return tuple(Message(role="assistant" if at % 2 else "user", content=text) for at, text in enumerate(texts))


async def answer(bus: Bus, whose: Whose, *texts: str) -> None:
    """A turn whose conversation are ``texts``, the last one being its answer."""
    event = answer_ready(turn_of(whose), unit(len(texts)), text=texts[-2], answer=texts[-1])
    query = msgspec.structs.replace(event.query, messages=dialogue(*texts[:-1]))
    await bus.publish(msgspec.structs.replace(event, query=query))


async def find_conversation(bus: Bus, tenant: str, user: str, *texts: str) -> str | None:
    request = ConversationRequest(tenant=tenant, user=user, transcript=digest_transcript(dialogue(*texts)))
    return (await bus.request(MEMORY_CONVERSATION, request, timeout=30.0)).session_id


@both
async def test_a_conversation_is_found_by_its_whole_transcript_at_once(bus: Bus, settings: MemorySettings) -> None:
    async with run_memory_agent(bus, settings):
        await answer(bus, ("ann", "", "first"), "Hi", "Hello!")
        assert await find_conversation(bus, "ann", "", "Hi", "Hello!") == "first"
        assert await find_conversation(bus, "ann", "", " Hi\n", "Hello!  ") == "first"
        assert await find_conversation(bus, "ann", "", "Hi", "Hello") is None
        assert await find_conversation(bus, "ann", "mia", "Hi", "Hello!") is None
        assert await find_conversation(bus, "bob", "", "Hi", "Hello!") is None
        await answer(bus, ("ann", "", "first"), "Hi", "Hello!", "My code is 7.", "Noted.")
        assert await find_conversation(bus, "ann", "", "Hi", "Hello!", "My code is 7.", "Noted.") == "first"
        assert await find_conversation(bus, "ann", "", "Hi", "Hello!") is None  # it went on since


@both
async def test_of_two_conversations_with_one_transcript_neither_is_taken(bus: Bus, settings: MemorySettings) -> None:
    async with run_memory_agent(bus, settings):
        await answer(bus, ("ann", "", "first"), "Hi", "Hello!")
        await answer(bus, ("ann", "", "second"), "Hi", "Hello!")
        assert await find_conversation(bus, "ann", "", "Hi", "Hello!") is None
        await answer(bus, ("ann", "", "first"), "Hi", "Hello!", "My code is 7.", "Noted.")
        assert await find_conversation(bus, "ann", "", "Hi", "Hello!") is None  # the first one has it, too
        await answer(bus, ("ann", "mia", "first"), "Hi", "Hello!")
        assert await find_conversation(bus, "ann", "mia", "Hi", "Hello!") == "first"


@here
async def test_a_conversation_begins_anew_while_answers_wait_to_be_recorded(bus: Bus, settings: MemorySettings) -> None:
    path = metrics.DEGRADED.labels("memory.conversation")
    async with run_memory_agent(bus, settings) as agent:
        await answer(bus, ("ann", "", "first"), "Hi", "Hello!")
        await eventually(lambda: find_conversation(bus, "ann", "", "Hi", "Hello!"))
        before = path._value.get()
        async with agent._stores.write_lock:  # the second one's record cannot be projected
            await answer(bus, ("ann", "", "second"), "Hi", "Hello!")
            assert await find_conversation(bus, "ann", "", "Hi", "Hello!") is None
    assert path._value.get() == before + 1


@both
async def test_forgotten_text_is_gone_from_other_turns_answers_and_dead_letters(
    bus: Bus, settings: MemorySettings
) -> None:
    secret, whose = "code-4471", ("ann", "mia", "s1")
    async with run_memory_agent(bus, settings):
        said = answer_ready(turn_of(whose), near(1), text=f"The cellar has {secret}.", answer="Noted.")
        await bus.publish(said)
        await wait_until_stored(bus, 1)

        asked = turn_of(("ann", "mia", "s2"))
        await bus.publish(query_routed(asked, near(0), text="What is the code of the cellar?"))
        done = await eventually(lambda: bus.last(RecallDone, asked.turn_id))
        assert secret in done.recall.hits[0].question
        told = answer_ready(asked, near(2), text="What is the code of the cellar?", answer="I will not say.")
        await bus.publish(msgspec.structs.replace(told, recall=done.recall))
        await eventually(lambda: bus.last(EpisodeRecorded, asked.turn_id, stream=EPISODES))
        letter = DeadLetter(
            subject="x",
            stream=TURNS,
            consumer="c",
            reason="r",
            deliveries=1,
            headers={},
            payload=encode(done),
            failed_at=1.0,
        )
        await bus.js.publish(bus.subjects.dead("c", "tests"), encode(letter))
        other = msgspec.structs.replace(letter, payload=b"of somebody else")
        await bus.js.publish(bus.subjects.dead("c", "tests"), encode(other))

        forget = ForgetRequest(tenant="ann", user="mia", session_id="s1")
        assert (await bus.request(MEMORY_FORGET, forget, timeout=60.0)).episodes == 1
        assert await bus.last(RecallDone, asked.turn_id) is None
        assert await bus.last(AnswerReady, asked.turn_id) is None
        assert await bus.last(EpisodeRecorded, asked.turn_id, stream=EPISODES) is not None
        assert (await bus.js.stream_info(DEAD)).state.messages == 1


@here
async def test_a_turn_that_runs_on_what_is_forgotten_is_cancelled(bus: Bus, settings: MemorySettings) -> None:
    async with run_memory_agent(bus, settings):
        said = answer_ready(turn_of(("ann", "mia", "s1")), near(1), text="The cellar has code-1.", answer="Noted.")
        await bus.publish(said)
        await wait_until_stored(bus, 1)
        running = turn_of(("ann", "mia", "s2"))
        await bus.publish(query_routed(running, near(0), text="What is the code of the cellar?"))
        await eventually(lambda: bus.last(RecallDone, running.turn_id))
        heard: list[str] = []

        async def hear(message: object) -> None:
            heard.append(running.turn_id)

        await bus.listen(bus.subjects.stage(TurnCancelled.subject, running.turn_id), hear)
        forget = ForgetRequest(tenant="ann", user="mia")
        await bus.request(MEMORY_FORGET, forget, timeout=60.0)
        assert heard == [running.turn_id]
        assert await bus.last(QueryRouted, running.turn_id) is None


@here
async def test_a_short_episode_id_ends_no_turn_of_others_when_it_is_forgotten(
    bus: Bus, settings: MemorySettings
) -> None:
    async with run_memory_agent(bus, settings):
        said = answer_ready(turn_of(("ann", "mia", "s1")), near(1), text="The cellar has code-1.", answer="Noted.")
        await bus.publish(said)
        await wait_until_stored(bus, 1)
        recorded = await bus.last(EpisodeRecorded, said.envelope.turn_id, stream=EPISODES)
        assert recorded is not None
        for episode_id in ("", "user"):  # any service may write such a record
            envelope = turn_of(("ann", "mia", "s1"))
            episode = msgspec.structs.replace(recorded.episode, episode_id=episode_id, turn_id=envelope.turn_id)
            await bus.publish(EpisodeRecorded(envelope=envelope, episode=episode))
        await wait_until_stored(bus, 3)
        running = turn_of(("bob", "tom", "s2"))
        await bus.publish(query_routed(running, near(0), text="What is the code of the cellar?"))
        await eventually(lambda: bus.last(RecallDone, running.turn_id))
        await bus.request(MEMORY_FORGET, ForgetRequest(tenant="ann", user="mia"), timeout=60.0)
        assert await bus.last(QueryRouted, running.turn_id) is not None


@here
async def test_a_turn_that_asks_for_no_record_has_none(bus: Bus, settings: MemorySettings) -> None:
    async with run_memory_agent(bus, settings):
        event = answer_ready(turn_of(("ann", "mia", "s1")), near(1), text="code-1", answer="Noted.")
        unstored = msgspec.structs.replace(event, query=msgspec.structs.replace(event.query, store=False))
        await bus.publish(unstored)
        stored = answer_ready(turn_of(("ann", "mia", "s1")), near(2), text="code-2", answer="Noted.")
        await bus.publish(stored)
        await eventually(lambda: bus.last(EpisodeRecorded, stored.envelope.turn_id, stream=EPISODES))
        assert await bus.last(EpisodeRecorded, event.envelope.turn_id, stream=EPISODES) is None
