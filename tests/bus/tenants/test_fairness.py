"""What one tenant sends stands in no other one's way: slots, what waits in hand, dead letters."""

import contextlib
from collections import Counter
from collections.abc import AsyncIterator

import anyio
import msgspec
import pytest

from bus import dead_letters
from bus.connection import Bus, BusSettings, connect
from bus.handler import Delivery
from bus.tenants.queue import TenantQueue
from bus.topology import DEAD, DEAD_MAX_BYTES
from schemas.codec import encode
from schemas.errors import Refused
from schemas.events import Event, QueryReceived, TurnCancelled, TurnFailed
from tests.bus.conftest import eventually, query, reply, run_consumer

pytestmark = pytest.mark.anyio

FLOOD, OTHER = "flood.of-one", "other"
PLACES, TURNS = 4, 12


@contextlib.asynccontextmanager
async def connect_with(url: str, **limits: int) -> AsyncIterator[Bus]:
    """A connection whose agents give a tenant so much."""
    async with connect(BusSettings(url=url, **limits), name="limited") as bus:  # type: ignore[arg-type]
        yield bus


async def ask(bus: Bus, tenant: str, count: int, *, text: str = "hello") -> list[QueryReceived]:
    events = [query(tenant=tenant, text=text) for _ in range(count)]
    async with anyio.create_task_group() as tasks:
        for event in events:
            tasks.start_soon(bus.publish, event)
    return events


async def list_ends(bus: Bus, events: list[QueryReceived]) -> list[TurnFailed | TurnCancelled | None]:
    """How the turns ended: the handler's reply, a refusal, or not yet."""
    return [
        await bus.last(TurnFailed, event.envelope.turn_id) or await bus.last(TurnCancelled, event.envelope.turn_id)
        for event in events
    ]


async def test_turns_of_one_tenant_that_never_end_lock_no_other_out(bus: Bus, nats_url: str) -> None:
    async def handle(event: QueryReceived, delivery: Delivery) -> Event:
        if event.envelope.tenant == FLOOD:
            await anyio.sleep_forever()
        return reply(event)

    async with (
        connect_with(nats_url, tenant_turns=TURNS) as limited,
        run_consumer(limited, handle, concurrency=PLACES, fair=True) as consumer,
    ):
        flood = await ask(bus, FLOOD, 64)

        async def are_settled() -> bool:
            return (
                consumer.in_hand == TURNS and sum(end is not None for end in await list_ends(bus, flood)) == 64 - TURNS
            )

        await eventually(are_settled)
        refusals = [end for end in await list_ends(bus, flood) if end is not None]
        assert {(end.code, end.retryable) for end in refusals if isinstance(end, TurnFailed)} == {("queue_full", True)}
        others = await ask(bus, OTHER, 3)

        async def are_answered() -> bool:
            return all(isinstance(end, TurnCancelled) for end in await list_ends(bus, others))

        await eventually(are_answered)
        assert consumer.in_hand == TURNS, "the flood is still there"
        assert [entry async for entry in dead_letters.read_letters(bus)] == [], "a refusal is no dead letter"


async def test_bytes_of_one_tenant_are_bounded(bus: Bus, nats_url: str) -> None:
    async def handle(_: QueryReceived, delivery: Delivery) -> Event:
        await anyio.sleep_forever()
        raise AssertionError

    text = "x" * 10_000
    async with (
        connect_with(nats_url, tenant_bytes=50_000) as limited,
        run_consumer(limited, handle, concurrency=PLACES, fair=True) as consumer,
    ):
        flood = await ask(bus, FLOOD, 12, text=text)

        async def are_refused() -> bool:
            return sum(isinstance(end, TurnFailed) for end in await list_ends(bus, flood)) == 8

        await eventually(are_refused)
        await ask(bus, OTHER, 1, text=text)

        async def is_taken() -> bool:
            return consumer.in_hand == 5

        await eventually(is_taken)


async def test_the_next_place_is_for_the_tenant_with_the_fewest() -> None:
    queue, order, held = TenantQueue(places=4, messages=100, size=100), list[str](), Counter[str]()

    async def work(tenant: str) -> None:
        async with queue.take_place(tenant):
            order.append(tenant)
            held[tenant] += 1
            assert held[tenant] <= 4
            await anyio.sleep(0.01)
            held[tenant] -= 1

    async with anyio.create_task_group() as tasks:
        for tenant in ["a"] * 20 + ["b"] * 6:
            tasks.start_soon(work, tenant)
    assert Counter(order) == {"a": 20, "b": 6}
    assert order[:5] == ["a", "a", "a", "a", "b"]
    assert order.index("b") < 5
    assert max(at for at, tenant in enumerate(order) if tenant == "b") < 20, "b does not wait behind all of a"


async def test_a_place_that_nobody_waits_for_any_more_goes_to_the_next() -> None:
    queue, done = TenantQueue(places=1, messages=9, size=9), list[str]()

    async def work(name: str) -> None:
        async with queue.take_place("a"):
            done.append(name)

    async with anyio.create_task_group() as tasks, queue.take_place("a"):
        with anyio.move_on_after(0.05):
            await work("cancelled")
        tasks.start_soon(work, "next")
        await anyio.wait_all_tasks_blocked()
        assert done == []
    assert done == ["next"]
    async with queue.take_place("a"):
        pass


def test_messages_in_hand_are_bounded_for_each() -> None:
    queue = TenantQueue(places=1, messages=2, size=100)
    with queue.hold("a", 60):
        with pytest.raises(Refused, match=r"turns of 60 bytes of the tenant 'a' wait, which is the limit: ask again"):
            queue.require_room("a", 60)
        with queue.hold("a", 10), pytest.raises(Refused, match="2 turns of the tenant 'a' wait, which"):
            queue.require_room("a", 1)
        queue.require_room("b", 60)
    queue.require_room("a", 100)


async def count_letters(bus: Bus) -> Counter[str]:
    """Dead letters by the text of their question."""
    return Counter(
        [
            msgspec.json.decode(entry.letter.payload)["query"]["messages"][0]["content"]
            async for entry in dead_letters.read_letters(bus)
        ]
    )


async def bury_all(bus: Bus, tenant: str, count: int, *, text: str = "hello") -> None:
    """Publish questions with more than 300 biases, which no stage can read, and wait until they are given up."""
    events = [query(tenant=tenant, text=text) for _ in range(count)]
    bias = {str(token): 0.5 for token in range(301)}
    for event in events:
        body = msgspec.json.decode(encode(event))
        body["query"]["sampling"] = {"logit_bias": bias}
        await bus.js.publish(bus.subjects.of(event), msgspec.json.encode(body))

    async def are_given_up() -> bool:
        return all(isinstance(end, TurnFailed) for end in await list_ends(bus, events))

    await eventually(are_given_up)


async def handle_nothing(_: QueryReceived, delivery: Delivery) -> Event | None:
    return None


async def test_the_letters_of_one_tenant_evict_no_other_ones(bus: Bus, nats_url: str) -> None:
    async with connect_with(nats_url, tenant_letters=10) as limited, run_consumer(limited, handle_nothing):
        await bury_all(bus, OTHER, 3, text="of another")
        await bury_all(bus, "flood", 5, text="of another with dots")
        await bury_all(bus, FLOOD, 60)
        assert await count_letters(bus) == {"of another": 3, "of another with dots": 5, "hello": 10}
        (*_, last) = [entry async for entry in dead_letters.read_letters(bus)]
        assert last.letter.subject.startswith(bus.subjects.stage("query.received", ""))
        assert last.letter.consumer == "echo"


async def test_large_letters_of_one_tenant_evict_no_other_ones(
    bus: Bus, nats_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "TENANT_SHARE", DEAD_MAX_BYTES // 200_000)
    async with connect_with(nats_url) as limited, run_consumer(limited, handle_nothing):
        await bury_all(bus, OTHER, 2, text="small")
        await bury_all(bus, FLOOD, 12, text="x" * 30_000)
        counts = await count_letters(bus)
        assert counts["small"] == 2
        assert 2 <= counts["x" * 30_000] <= 5, "a letter is in base64, so a third larger"
        assert (await bus.js.stream_info(DEAD)).state.bytes < 250_000
