"""Whose memory it is, over HTTP: users by four names, sessions within them, conversations by their transcript."""

import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from agents.memory.agent import MemoryAgent
from agents.memory.settings import MemorySettings
from bus.connection import Bus
from bus.testing import run_agents
from runtime.facade import FacadeSettings
from runtime.facade.owner import name_user
from schemas.envelope import PERSON
from schemas.errors import InvalidInput, SetupError
from tests.agents.memory.memories import run_memory_agent, wait_for_projection
from tests.agents.memory.scenes import SIZE
from tests.runtime.facade.readers import tell_and_read
from tests.runtime.facade.routes.test_sessions import EmbeddingAgent
from tests.runtime.facade.scripted import Script, chat_body

pytestmark = pytest.mark.anyio
CHAT = "/v1/chat/completions"


@pytest.fixture
async def memory(bus: Bus, tmp_path: Path) -> AsyncIterator[MemoryAgent]:
    settings = MemorySettings(data_dir=tmp_path / "memory", vector_size=SIZE, lock_timeout=0.1, status_interval=0.05)
    async with run_memory_agent(bus, settings) as agent:
        yield agent


@pytest.mark.parametrize("field", ["user", "safety_identifier"])
@pytest.mark.parametrize("header", ["X-User-Id", "X-OpenWebUI-User-Id"])
async def test_a_user_is_named_in_the_body_or_in_a_header(
    http: httpx.AsyncClient, script: Script, field: str, header: str
) -> None:
    for body, headers in (({field: "mia"}, {}), ({}, {header: "mia"}), ({field: "mia"}, {header: "mia"})):
        assert (await http.post(CHAT, json=chat_body() | body, headers=headers)).status_code == 200
    assert [event.envelope.user for event in script.queries] == ["mia"] * 3
    refusal = await http.post(CHAT, json=chat_body() | {field: "mia"}, headers={header: "tom"})
    error = refusal.json()["error"]
    assert (refusal.status_code, error["param"]) == (400, field)
    assert field in error["message"]
    assert header in error["message"]
    assert len(script.queries) == 3


async def test_nobody_is_named_by_an_empty_name(http: httpx.AsyncClient, script: Script) -> None:
    reply = await http.post(CHAT, json=chat_body() | {"user": ""}, headers={"X-User-Id": ""})
    assert reply.status_code == 200
    assert script.queries[0].envelope.user == ""


@pytest.mark.parametrize("user", ["a\nb", "mia\n", "\x1b[31mmia", "x" * 257])
async def test_a_text_that_is_no_name_is_refused_by_field(http: httpx.AsyncClient, script: Script, user: str) -> None:
    refusal = await http.post(CHAT, json=chat_body() | {"user": user})
    assert (refusal.status_code, refusal.json()["error"]["param"]) == (400, "user")
    assert script.queries == []


async def test_the_memory_of_a_user_needs_a_user(http: httpx.AsyncClient, script: Script) -> None:
    body = chat_body() | {"kiki": {"memory": "user"}}
    refusal = await http.post(CHAT, json=body)
    assert (refusal.status_code, refusal.json()["error"]["param"]) == (400, "kiki.memory")
    assert (await http.post(CHAT, json=body | {"user": "mia"})).status_code == 200
    assert script.queries[0].query.memory == "user"


@pytest.mark.parametrize(("store", "recorded"), [(None, True), (True, True), (False, False)])
async def test_store_is_honoured(http: httpx.AsyncClient, script: Script, store: bool | None, recorded: bool) -> None:
    assert (await http.post(CHAT, json=chat_body() | {"store": store})).status_code == 200
    assert script.queries[0].query.store is recorded


async def test_a_store_that_is_no_boolean_is_refused(http: httpx.AsyncClient, script: Script) -> None:
    refusal = await http.post(CHAT, json=chat_body() | {"store": "no"})
    assert (refusal.status_code, refusal.json()["error"]["param"]) == (400, "store")


async def test_an_idempotency_key_of_another_user_is_another_turn(http: httpx.AsyncClient, script: Script) -> None:
    key = uuid.uuid4().hex
    turns = []
    for user in ("mia", "tom", "mia", ""):
        reply = await http.post(CHAT, json=chat_body() | {"user": user}, headers={"Idempotency-Key": key})
        turns.append(reply.headers["x-turn-id"])
    assert turns[0] == turns[2]
    assert len(set(turns)) == 3


async def test_a_turn_is_shown_to_its_user_alone(http: httpx.AsyncClient, script: Script) -> None:
    turn_id = (await http.post(CHAT, json=chat_body() | {"user": "mia"})).headers["x-turn-id"]
    shown = [
        (await http.get(f"/v1/turns/{turn_id}", headers=headers)).status_code
        for headers in ({"X-User-Id": "mia"}, {"X-User-Id": "tom"}, {})
    ]
    assert shown == [200, 404, 404]
    assert (await http.get(f"/v1/turns/{turn_id}", params={"user": "mia"})).status_code == 200
    both = await http.get(f"/v1/turns/{turn_id}", params={"user": "mia"}, headers={"X-User-Id": "tom"})
    assert both.status_code == 400


class Asker:
    """A client that names no session and sends the whole conversation each time."""

    def __init__(self, http: httpx.AsyncClient, **body: Any) -> None:
        self.http, self.body = http, body
        self.messages: list[dict[str, str]] = []

    async def say(self, text: str) -> None:
        self.messages.append({"role": "user", "content": text})
        reply = await self.http.post(CHAT, json={"model": "micro-kiki", "messages": self.messages, **self.body})
        assert reply.status_code == 200, reply.text
        self.messages.append(reply.json()["choices"][0]["message"] | {"role": "assistant"})


async def test_a_conversation_without_a_session_id_goes_on(
    http: httpx.AsyncClient, memory: MemoryAgent, script: Script
) -> None:
    asker = Asker(http)
    for text in ("Hi", "My cat is Milo.", "Who is Milo?"):
        await asker.say(text)
    assert len({event.envelope.session_id for event in script.queries}) == 1


async def test_a_first_message_always_begins_a_conversation(
    http: httpx.AsyncClient, memory: MemoryAgent, script: Script
) -> None:
    for _ in range(3):
        await Asker(http).say("Hi")
    assert len({event.envelope.session_id for event in script.queries}) == 3


async def test_two_askers_with_the_same_two_turns_are_kept_apart(
    http: httpx.AsyncClient, memory: MemoryAgent, script: Script
) -> None:
    """The scripted answers are the same each time, as greedy ones are."""
    one, two = Asker(http), Asker(http)
    for text in ("Hi", "How are you?"):
        await one.say(text)
        await two.say(text)
    await one.say("The code of the north cellar is 4471-PLUM.")
    await two.say("What is the code of the north cellar?")
    sessions = [event.envelope.session_id for event in script.queries]
    assert len(set(sessions[-2:])) == 2
    await one.say("Thanks.")
    await two.say("Hm.")
    of_one, of_two = ({event.envelope.session_id for event in script.queries[at::2]} for at in (0, 1))
    assert not of_one & of_two
    assert script.queries[-2].envelope.session_id == sessions[-2]  # from there on the transcripts differ


async def test_a_clients_own_prompt_for_a_title_is_a_conversation_of_its_own(
    http: httpx.AsyncClient, memory: MemoryAgent, script: Script
) -> None:
    chat = Asker(http)
    await chat.say("My cat is Milo.")
    await Asker(http).say("Write a 4-word title for this chat: My cat is Milo.")
    await chat.say("Who is Milo?")
    first, title, second = (event.envelope.session_id for event in script.queries)
    assert first == second != title


async def test_users_with_the_same_transcript_are_kept_apart(
    http: httpx.AsyncClient, memory: MemoryAgent, script: Script
) -> None:
    mia, tom = Asker(http, user="mia"), Asker(http, user="tom")
    for text in ("Hi", "How are you?"):
        await mia.say(text)
        await tom.say(text)
    sessions = [event.envelope.session_id for event in script.queries]
    assert (sessions[0], sessions[1]) == (sessions[2], sessions[3])
    assert sessions[0] != sessions[1]


async def test_without_a_memory_a_conversation_begins_anew(http: httpx.AsyncClient, script: Script) -> None:
    asker = Asker(http)
    await asker.say("Hi")
    await asker.say("How are you?")
    assert len({event.envelope.session_id for event in script.queries}) == 2


async def test_without_keys_everybody_reads_their_own_alone(
    bus: Bus, memory: MemoryAgent, http: httpx.AsyncClient, script: Script
) -> None:
    owners = {user or "nobody": {"X-User-Id": user} if user else {} for user in ("", "mia", "tom", "zoe")}
    async with run_agents(bus, EmbeddingAgent()):
        await wait_for_projection(bus, 0, 0)
        await tell_and_read(bus, memory, http, owners)


@pytest.mark.parametrize("header", ["x-user-id", "X-USER-ID"])
def test_a_machine_with_one_memory_names_its_person(header: str) -> None:
    assert name_user({}, one_memory=True) == PERSON
    assert name_user({}, one_memory=False) == ""
    assert name_user(httpx.Headers({header: "tom"}), one_memory=True) == "tom"
    with pytest.raises(InvalidInput, match="X-User-Id"):
        name_user({"X-User-Id": "a\x00"}, one_memory=True)


def test_one_memory_and_keys_are_refused_together() -> None:
    with pytest.raises(SetupError, match="one_memory"):
        FacadeSettings(one_memory=True, api_keys={"k": "ann"})
