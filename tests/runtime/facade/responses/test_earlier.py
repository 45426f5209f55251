"""Responses that are read again, continued and deleted, with a real memory: also when only the record has them."""

from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from agents.memory.agent import MemoryAgent
from agents.memory.settings import MemorySettings
from bus.connection import Bus
from bus.stream import purge
from bus.topology import ANSWERS, TURNS
from bus.turns.events import find_end
from schemas.calls import MEMORY_SESSION, MEMORY_VERIFY
from schemas.chat import ToolCall, Usage
from schemas.errors import StageFailed
from schemas.events import EpisodeForgotten, EpisodeRecorded
from schemas.memory import SessionRequest, VerifyRequest
from tests.agents.memory.memories import eventually, run_memory_agent, wait_for_projection
from tests.runtime.facade.scripted import Script

pytestmark = pytest.mark.anyio
ANN = {"X-User-Id": "ann"}
FAST = "micro-kiki-fast"


@pytest.fixture
async def memory(bus: Bus, tmp_path: Path) -> AsyncIterator[MemoryAgent]:
    settings = MemorySettings(data_dir=tmp_path / "memory", vector_size=2, lock_timeout=0.1, status_interval=0.05)
    async with run_memory_agent(bus, settings) as agent:
        yield agent


async def create(http: httpx.AsyncClient, text: str, **fields: Any) -> dict[str, Any]:
    body = {"model": FAST, "input": text, **fields}
    reply = await http.post("/v1/responses", json=body, headers=ANN)
    assert reply.status_code == 200, reply.text
    response: dict[str, Any] = reply.json()
    return response


async def pass_an_hour(bus: Bus, recorded: int) -> None:
    """Drop what the streams hold of turns, as they do by themselves after an hour, once the record has it."""
    await wait_for_projection(bus, recorded, recorded)
    for stream in (TURNS, ANSWERS):
        await purge(bus, stream)


def turn_of(response: dict[str, Any]) -> str:
    return str(response["id"]).removeprefix("resp_")


@pytest.mark.parametrize("finish_reason", ["stop", "length"])
async def test_the_record_has_a_response_as_it_was(
    bus: Bus, memory: MemoryAgent, http: httpx.AsyncClient, script: Script, finish_reason: Any
) -> None:
    script.reasoning, script.finish_reason = "France.", finish_reason
    script.usage = Usage(prompt_tokens=11, completion_tokens=3)
    fields = {
        "instructions": "Be brief.",
        "metadata": {"topic": "capitals"},
        "tools": [{"type": "custom", "name": "run"}],
        "tool_choice": "none",
        "kiki": {"thinking": True},
    }
    created = await create(http, "What is the capital of France?", **fields)
    path = f"/v1/responses/{created['id']}"
    items = (await http.get(f"{path}/input_items", headers=ANN)).json()
    await pass_an_hour(bus, 1)
    assert await find_end(bus, turn_of(created)) is None
    assert (await http.get(path, headers=ANN)).json() == created
    assert (await http.get(f"{path}/input_items", headers=ANN)).json() == items
    assert (await http.get(path, headers={"X-User-Id": "bob"})).status_code == 404


async def test_a_conversation_goes_on_from_the_record(
    bus: Bus, memory: MemoryAgent, http: httpx.AsyncClient, script: Script
) -> None:
    first = await create(http, "I have 21 apples.", instructions="Be brief.")
    await pass_an_hour(bus, 1)
    second = await create(http, "Double that.", instructions="Be polite.", previous_response_id=first["id"])
    await pass_an_hour(bus, 2)
    await create(http, "Halve that.", previous_response_id=second["id"])
    await create(http, "Halve that.", previous_response_id=first["id"])
    conversations = [[message.content for message in query.query.messages] for query in script.queries]
    answer = script.text
    assert conversations[1:] == [
        ["Be polite.", "I have 21 apples.", answer, "Double that."],
        ["I have 21 apples.", answer, "Double that.", answer, "Halve that."],
        ["I have 21 apples.", answer, "Halve that."],
    ]
    assert len({query.envelope.session_id for query in script.queries}) == 1


async def test_a_response_that_calls_tools_is_there_for_an_hour(
    bus: Bus, memory: MemoryAgent, http: httpx.AsyncClient, script: Script
) -> None:
    script.tool_calls = (ToolCall(id="c1", name="f", arguments="{}"),)
    created = await create(http, "What?", tools=[{"type": "function", "name": "f"}])
    path = f"/v1/responses/{created['id']}"
    assert (await http.get(path, headers=ANN)).json() == created
    await pass_an_hour(bus, 0)
    assert (await http.get(path, headers=ANN)).status_code == 404


async def read_session(bus: Bus, session_id: str) -> list[str]:
    request = SessionRequest(tenant="default", user="ann", session_id=session_id)
    reply = await bus.request(MEMORY_SESSION, request, timeout=10.0)
    return [entry.question for entry in reply.episodes]


@pytest.mark.parametrize("hours", [0, 1])
async def test_a_deleted_response_is_gone_and_the_others_stay(
    bus: Bus, memory: MemoryAgent, http: httpx.AsyncClient, script: Script, hours: int
) -> None:
    first = await create(http, "I have 21 apples.")
    second = await create(http, "Double that.", previous_response_id=first["id"])
    if hours:
        await pass_an_hour(bus, 2)
    session_id, path = script.queries[0].envelope.session_id, f"/v1/responses/{first['id']}"
    for stranger in ({}, {"X-User-Id": "bob"}):
        assert (await http.delete(path, headers=stranger)).status_code == 404

    deletion = await http.delete(path, headers=ANN)
    assert (deletion.status_code, deletion.json()) == (
        200,
        {"id": first["id"], "object": "response", "deleted": True},
    )
    assert await read_session(bus, session_id) == ["Double that."]
    for method, tail in (("GET", ""), ("GET", "/input_items"), ("DELETE", ""), ("POST", "/cancel")):
        assert (await http.request(method, path + tail, headers=ANN)).status_code == 404
    body = {"model": FAST, "input": "What?", "previous_response_id": first["id"]}
    assert (await http.post("/v1/responses", json=body, headers=ANN)).status_code == 404
    assert "apples" not in (await http.get(f"/v1/turns/{turn_of(first)}", headers=ANN)).text
    assert await bus.last(EpisodeRecorded, turn_of(first)) is None

    again = (await http.get(f"/v1/responses/{second['id']}", headers=ANN)).json()
    assert again == second
    await create(http, "Halve that.", previous_response_id=second["id"])
    assert script.queries[-1].query.messages[0].content == "I have 21 apples."  # what the second was made from
    await wait_for_projection(bus, 2, 2)
    reply = await bus.request(MEMORY_VERIFY, VerifyRequest(), timeout=30.0)
    assert (reply.agrees or hours == 1, reply.differs) == (True, False)


async def test_a_response_that_is_not_recorded_can_be_deleted(
    bus: Bus, memory: MemoryAgent, http: httpx.AsyncClient, script: Script
) -> None:
    script.tool_calls = (ToolCall(id="c1", name="f", arguments="{}"),)
    created = await create(http, "What?", tools=[{"type": "function", "name": "f"}])
    path = f"/v1/responses/{created['id']}"
    assert (await http.delete(path, headers=ANN)).json()["deleted"]
    assert (await http.get(path, headers=ANN)).status_code == 404
    assert await find_end(bus, turn_of(created)) is None


async def test_a_failed_response_can_be_deleted(
    bus: Bus, memory: MemoryAgent, http: httpx.AsyncClient, script: Script
) -> None:
    script.fail = StageFailed("it broke.")
    body = {"model": FAST, "input": "What?"}
    turn_id = (await http.post("/v1/responses", json=body, headers=ANN)).headers["x-turn-id"]
    path = f"/v1/responses/resp_{turn_id}"
    assert (await http.get(path, headers=ANN)).json()["status"] == "failed"
    assert (await http.delete(path, headers=ANN)).json()["deleted"]
    assert (await http.get(path, headers=ANN)).status_code == 404


async def test_a_deleted_response_is_not_recorded_afterwards(
    bus: Bus, memory: MemoryAgent, http: httpx.AsyncClient, script: Script
) -> None:
    """Deleted at once, many times: the answers are still on their way to the record."""
    paths = [f"/v1/responses/{(await create(http, f'Number {number}.'))['id']}" for number in range(5)]
    async with anyio.create_task_group() as tasks:
        for path in paths:
            tasks.start_soon(partial(http.delete, path, headers=ANN))
    await create(http, "The last one.")

    async def is_settled() -> bool:
        return await memory._stores.trace.count() == 1

    await eventually(is_settled)
    for path in paths:
        assert (await http.get(path, headers=ANN)).status_code == 404
        turn_id = path.rpartition("_")[2]
        assert await bus.last(EpisodeForgotten, turn_id, stream="EPISODES") is not None


async def test_a_deletion_needs_the_memory(http: httpx.AsyncClient, script: Script) -> None:
    created = await create(http, "What?")
    reply = await http.delete(f"/v1/responses/{created['id']}", headers=ANN)
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "unavailable")
    assert (await http.get(f"/v1/responses/{created['id']}", headers=ANN)).json() == created
