"""A handler at a breakpoint stops its whole process, heartbeats included; with ``debug`` nothing comes again for it."""

import time
from dataclasses import replace

import pytest

from bus.agent import BaseAgent
from bus.connection import Bus, connect
from bus.handler import Delivery, Handler
from bus.testing import run_agents, sample_event, wait_for_event
from bus.topology import TURNS
from schemas.events import QueryRouted, RecallDone
from schemas.findings import Recall

pytestmark = pytest.mark.anyio


class Stopping(BaseAgent):
    """Stands still for longer than the broker waits for a sign of life."""

    name = "memory"

    def handlers(self) -> tuple[Handler[QueryRouted]]:
        return (Handler(stage="memory", event=QueryRouted, handle=self.stop, ack_wait=0.5),)

    async def stop(self, event: QueryRouted, _: Delivery) -> RecallDone:
        time.sleep(2.0)  # noqa: ASYNC251 - as a debugger does
        return RecallDone(envelope=event.envelope, query=event.query, route=event.route, recall=Recall())


@pytest.mark.parametrize(("debug", "redelivered"), [(True, False), (False, True)])
async def test_a_breakpoint_causes_no_redelivery_with_debug(bus: Bus, debug: bool, redelivered: bool) -> None:
    async with connect(replace(bus.settings, debug=debug), name="debugged") as house, run_agents(house, Stopping()):
        routed = sample_event(QueryRouted)
        await house.publish(routed)
        await wait_for_event(house, RecallDone, routed.envelope.turn_id)
        info = await house.js.consumer_info(TURNS, "memory")
    assert info.delivered is not None
    assert (info.delivered.consumer_seq > 1) is redelivered
