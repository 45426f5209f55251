"""A disk that fills up while a turn runs: its answer cannot be stored, so the client does not get it."""

from pathlib import Path

import anyio
import httpx
import pytest

from bus.broker import run_broker
from bus.connection import Bus, BusSettings, connect
from runtime.facade import FacadeSettings
from runtime.soak.isolation import fill_disk
from schemas.errors import Unavailable
from schemas.events import QueryReceived
from tests.runtime.facade.scripted import (
    Script,
    answer_event,
    chat_body,
    recall_event,
    routed_event,
    run_scripted_agents,
    serve_facade,
)
from tests.small_disk import mount_small_disk

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(120)]

LONG = "word " * 20_000
"""Longer than what a disk still takes in a page that was begun."""


async def answer_in_vain(bus: Bus, query: QueryReceived) -> None:
    """Publish the answer, which everybody hears and nobody stores."""
    with pytest.raises(Unavailable):
        await bus.publish(answer_event(recall_event(routed_event(query)), Script(text=LONG)))


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_that_cannot_be_stored_is_a_retryable_refusal(tmp_path: Path, stream: bool) -> None:
    script = Script(silent=True)
    with mount_small_disk(tmp_path / "disk", 40) as disk:
        async with (
            run_broker(disk / "nats", port=0) as broker,
            connect(BusSettings(url=broker.url, publish_timeout=2.0), name="facade") as bus,
        ):
            await bus.reconcile()
            async with (
                run_scripted_agents(broker.url, script),
                serve_facade(bus, FacadeSettings(port=0, broker_dir=disk / "nats")) as url,
                httpx.AsyncClient(base_url=url, timeout=20) as http,
                anyio.create_task_group() as tasks,
            ):
                replies: list[httpx.Response] = []

                async def ask() -> None:
                    replies.append(await http.post("/v1/chat/completions", json=chat_body(stream=stream)))

                tasks.start_soon(ask)
                await script.query_arrived.wait()
                with fill_disk(disk), anyio.fail_after(10):
                    await answer_in_vain(bus, script.queries[0])
                    while not replies:
                        await anyio.sleep(0.01)
    (reply,) = replies
    assert reply.status_code == 503
    assert '"unavailable"' in reply.text
    assert f"the disk of {disk}/nats is full" in reply.text
    assert "word" not in reply.text
