"""What a connection promises beside its verbs."""

import pytest

from bus import connection
from bus.connection import Bus, BusSettings, connect
from schemas.errors import SetupError

pytestmark = pytest.mark.anyio


async def test_a_flush_makes_the_subscriptions_before_it_known(bus: Bus, nats_url: str) -> None:
    async with connect(BusSettings(url=nats_url), name="publisher") as publisher:
        for number in range(300):
            subscription = await bus.client.subscribe(f"kiki.test.flush.{number}")
            await bus.flush()
            await publisher.client.publish(f"kiki.test.flush.{number}", b"x")
            assert (await subscription.next_msg(timeout=5)).data == b"x"
            await subscription.unsubscribe()


async def test_a_server_that_is_too_old_is_named(nats_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "MIN_SERVER", (99, 0))
    with pytest.raises(SetupError, match=r"the NATS server has version \d+\.\d+.*: update it to 99\.0 or later"):
        async with connect(BusSettings(url=nats_url), name="test"):
            pass
