"""A client that goes away stops the decoding within two tokens of its cancellation."""

from contextlib import suppress

import httpx
import pytest

from bus.connection import connect
from bus.subjects import Subjects
from schemas.events import InferToken, TurnCancelled
from tests.e2e.conftest import Runtime

pytestmark = pytest.mark.anyio


def count_decoded(runtime: Runtime) -> tuple[float, float]:
    """Tokens decoded so far, and rows that are decoding, by the worker's own count."""
    lines = httpx.get(f"{runtime.http}/metrics", timeout=10).text.splitlines()
    values = {line.split("{")[0].split(" ")[0]: float(line.rsplit(" ", 1)[1]) for line in lines if line[:1] != "#"}
    return values["kiki_inference_tokens_decoded_total"], values["kiki_inference_active_rows"]


async def test_the_disconnect_reaches_the_decode_step(runtime: Runtime) -> None:
    """The broker's own order of the turn's messages says what was decoded after the cancellation."""
    body = {
        "model": "micro-kiki-fast",
        "messages": [{"role": "user", "content": "Write a long story about a village by a river."}],
        "max_tokens": 1000,
        "stream": True,
    }
    async with connect(runtime.bus, name="watcher") as bus:
        heard = await bus.client.subscribe(bus.subjects.turn("*"))
        await bus.flush()
        async with (
            httpx.AsyncClient(base_url=runtime.http, timeout=60) as http,
            http.stream("POST", "/v1/chat/completions", json=body) as response,
        ):
            lines = (line async for line in response.aiter_lines() if '"content"' in line)
            for _ in range(5):
                await anext(lines)
        turn_id = response.headers["x-turn-id"]
        names: list[str] = []
        with suppress(TimeoutError):  # a second of silence: the turn is over
            while True:
                message = await heard.next_msg(timeout=20.0 if TurnCancelled.subject not in names else 1.0)
                if message.subject.endswith(turn_id):
                    names.append(Subjects.kind(message.subject))
        end = names.index(TurnCancelled.subject)
    assert names[:end].count(InferToken.subject) >= 4
    assert names[end:].count(InferToken.subject) <= 2
    assert count_decoded(runtime)[1] == 0
