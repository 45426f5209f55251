"""A stream whose worker is silent: when it begins, and the comments that keep its connection."""

import anyio
import httpx
import pytest

from runtime.facade import FacadeSettings
from tests.runtime.facade.scripted import Script, chat_body

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def settings() -> FacadeSettings:
    return FacadeSettings(port=0, poll_seconds=0.05, keepalive_seconds=0.2, accept_seconds=0.5)


async def read_until(url: str, script: Script, event: anyio.Event, marks: int, **fields: object) -> str:
    """The whole stream; ``event`` is set when so many comments have come."""
    text = ""
    async with (
        httpx.AsyncClient(base_url=url, timeout=20) as client,
        client.stream("POST", "/v1/chat/completions", json=chat_body(stream=True, **fields)) as reply,
    ):
        assert reply.status_code == 200
        async for part in reply.aiter_text():
            text += part
            if text.count("\n:") + text.startswith(":") >= marks:
                event.set()
    return text


async def test_a_stream_begins_without_a_worker_that_says_nothing(url: str, script: Script) -> None:
    script.before_begin = anyio.Event()
    text = await read_until(url, script, script.before_begin, 2)
    comments = [line for line in text.splitlines() if line.startswith(":")]
    assert len(comments) >= 2
    assert set(comments) == {":"}
    assert text.index('"role":"assistant"') < text.index(":\n\n")
    assert text.endswith("data: [DONE]\n\n")


async def test_a_prompt_that_is_being_read_is_told_where_a_client_asks_for_it(url: str, script: Script) -> None:
    script.before_answer, script.tokens = anyio.Event(), ()
    text = await read_until(url, script, script.before_answer, 3, kiki={"progress": True})
    assert ": reading the prompt of 7 tokens" in text.splitlines()
    assert text.endswith("data: [DONE]\n\n")
