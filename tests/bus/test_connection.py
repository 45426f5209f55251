"""What a connection promises beside its verbs."""

import pytest

from bus.connection import Bus, BusSettings, connect

pytestmark = pytest.mark.anyio


async def test_a_flush_makes_the_subscriptions_before_it_known(bus: Bus, nats_url: str) -> None:
    async with connect(BusSettings(url=nats_url), name="publisher") as publisher:
        for number in range(300):
            subscription = await bus.client.subscribe(f"kiki.test.flush.{number}")
            await bus.flush()
            await publisher.client.publish(f"kiki.test.flush.{number}", b"x")
            assert (await subscription.next_msg(timeout=5)).data == b"x"
            await subscription.unsubscribe()
