"""What the model reads in a whole runtime: a session that goes on, and a question that is asked again."""

import asyncio
import json
import time
import uuid
from typing import Any

import httpx

from bus.connection import BusSettings, connect
from schemas.chat import Message, Sampling
from schemas.envelope import PERSON, new_turn
from schemas.events import QueryReceived, RecallDone
from schemas.findings import Query
from tests.e2e.conftest import Runtime

FIRST, SECOND = "I have 21 apples.", "Now double that number."


def ask(runtime: Runtime, text: str, *, session: str | None = None, **kiki: Any) -> dict[str, Any]:
    """Ask at level fast; returns the body of the reply."""
    reply = httpx.post(
        f"{runtime.http}/v1/chat/completions",
        json={
            "model": "micro-kiki-fast",
            "messages": [{"role": "user", "content": text}],
            "max_tokens": 24,
            "temperature": 0,
            "kiki": {"trace": True, **kiki},
        },
        headers={"X-Session-Id": session} if session else {},
        timeout=120,
    )
    assert reply.status_code == 200, reply.text
    body: dict[str, Any] = reply.json()
    return body


def read_prompt(runtime: Runtime, turn_id: str) -> list[str]:
    """The messages that the worker got, quotes left out."""
    events = httpx.get(f"{runtime.http}/v1/turns/{turn_id}", timeout=30).json()["events"]
    (done,) = [event["event"] for event in events if event["subject"] == "recall.done"]
    return [message["content"] for message in done["query"]["messages"]]


def test_a_session_goes_on_over_http_though_only_the_new_message_is_sent(runtime: Runtime) -> None:
    session = uuid.uuid4().hex
    first = ask(runtime, FIRST, session=session, history="session")
    second = ask(runtime, SECOND, session=session, history="session")  # at once: the record may be on its way
    answer = first["choices"][0]["message"]["content"]
    assert read_prompt(runtime, second["kiki"]["turn_id"]) == [FIRST, answer, SECOND]
    assert len(second["kiki"]["history"]) == 1
    assert set(second["kiki"]["history"]).isdisjoint(second["kiki"]["recalled"])
    alone = ask(runtime, SECOND, session=uuid.uuid4().hex, history="session")
    assert read_prompt(runtime, alone["kiki"]["turn_id"]) == [SECOND]


def test_a_session_goes_on_for_an_asker_on_the_bus_and_for_the_command_line(runtime: Runtime) -> None:
    session = uuid.uuid4().hex
    asked = runtime.kiki("ask", FIRST, "--session", session, "--model", "micro-kiki-fast")
    assert asked.returncode == 0, asked.stderr
    prompts = asyncio.run(_ask_on_the_bus(runtime.bus, session))
    assert prompts == [FIRST, asked.stdout.strip(), SECOND]
    again = runtime.kiki("ask", "And once more.", "--session", session, "--model", "micro-kiki-fast", "--trace")
    assert again.returncode == 0, again.stderr
    assert "2 of history" in again.stdout


async def _ask_on_the_bus(settings: BusSettings, session: str) -> list[str]:
    envelope = new_turn(tenant="default", user=PERSON, session_id=session, timeout=60)
    query = Query(
        model="micro-kiki-fast",
        messages=(Message(role="user", content=SECOND),),
        sampling=Sampling(max_tokens=8),
        history="session",
    )
    async with connect(settings, name="test") as bus:
        await bus.publish_and_wait(QueryReceived(envelope=envelope, query=query))
        done = await bus.last(RecallDone, envelope.turn_id)
    assert done is not None
    return [message.content for message in done.query.messages]


def test_a_question_asked_three_times_has_the_same_prompt_and_answer_three_times(runtime: Runtime) -> None:
    question = f"In the year {uuid.uuid4().int % 900 + 1100}, what was the capital of France?"
    replies = []
    for number, text in enumerate((question, question.upper().replace("?", ""), question)):
        reply = ask(runtime, text, session="asked-again")
        _wait_for_episodes(runtime, "asked-again", number + 1)
        replies.append(reply)
    assert [reply["kiki"]["recalled"] for reply in replies] == [[], [], []]
    assert replies[0]["usage"]["prompt_tokens"] == replies[2]["usage"]["prompt_tokens"]
    assert replies[0]["choices"][0]["message"] == replies[2]["choices"][0]["message"]


def _wait_for_episodes(runtime: Runtime, session: str, count: int) -> None:
    for _ in range(100):
        found = httpx.get(f"{runtime.http}/v1/sessions/{session}", timeout=30)
        if found.status_code == 200 and len(found.json()["episodes"]) == count:
            return
        time.sleep(0.1)
    raise AssertionError(json.dumps(found.json()))
