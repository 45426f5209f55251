"""A trained adapter is proposed to whoever runs, and what becomes of it is waited for, though not for ever."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import anyio
import pytest

from bus.agent import Endpoint
from bus.connection import Bus
from bus.handler import Delivery, Handler
from bus.stream import list_subjects
from bus.testing import run_agents
from bus.topology import ADAPTERS
from runtime.training.proposal import ORIGIN, describe_fate, is_listed, propose
from schemas.adapters import (
    AdapterActivated,
    AdapterInfo,
    AdapterListReply,
    AdapterListRequest,
    AdapterProposed,
    AdapterPublished,
    AdapterRejected,
    Gate,
)
from schemas.calls import ADAPTERS_LS
from schemas.status import StatusReply

pytestmark = pytest.mark.anyio

SHA = "a" * 64


class JudgingAgent:
    """Takes the place of the gates and of the worker: lists one adapter, judges what is proposed, activates it."""

    name = "judge"

    def __init__(self, *, passes: bool = True, activates: bool = True) -> None:
        self.proposals: list[AdapterProposed] = []
        self._passes, self._activates = passes, activates

    @contextlib.asynccontextmanager
    async def open(self, bus: Bus) -> AsyncIterator[None]:
        yield

    def handlers(self) -> Sequence[Handler[Any]]:
        return (
            Handler(stage="gates", event=AdapterProposed, handle=self._judge, stream=ADAPTERS),
            Handler(stage="loading", event=AdapterPublished, handle=self._load, stream=ADAPTERS),
        )

    def endpoints(self) -> Sequence[Endpoint]:
        return (Endpoint(ADAPTERS_LS, self._list),)

    def status(self) -> StatusReply:
        return StatusReply(agent=self.name, ready=True)

    async def _judge(self, event: AdapterProposed, _: Delivery) -> AdapterPublished | AdapterRejected:
        self.proposals.append(event)
        envelope = event.envelope.next("gates")
        if self._passes:
            return AdapterPublished(envelope=envelope, name=event.name, sha256=event.sha256)
        gate = Gate(name="angle", passed=False, value=12.0, bound=30.0)
        return AdapterRejected(
            envelope=envelope,
            name=event.name,
            sha256=event.sha256,
            stage="gates",
            code="invariant_broken",
            message="it points along 'spice'",
            gates=(gate,),
        )

    async def _load(self, event: AdapterPublished, _: Delivery) -> AdapterActivated | None:
        if not self._activates:
            return None
        return AdapterActivated(envelope=event.envelope.next("inference"), name=event.name, sha256=event.sha256)

    async def _list(self, _: AdapterListRequest) -> AdapterListReply:
        return AdapterListReply(adapters=(AdapterInfo(name="sql"),))


async def test_a_proposal_that_passes_is_waited_for_until_the_worker_serves_it(bus: Bus) -> None:
    judge = JudgingAgent()
    async with run_agents(bus, judge):
        fate = await propose(bus, "sql", sha256=SHA, base_model="base", wait=20)
        assert isinstance(fate, AdapterActivated)
        assert fate.sha256 == SHA
        (proposal,) = judge.proposals
        assert (proposal.name, proposal.sha256, proposal.base_model, proposal.origin) == ("sql", SHA, "base", ORIGIN)
        assert describe_fate(fate, 20) == f"served: the worker has activated {SHA[:12]}"
        # The same digest is the same life: it is not judged again.
        assert isinstance(await propose(bus, "sql", sha256=SHA, base_model="base", wait=20), AdapterActivated)
        assert len(judge.proposals) == 1


async def test_a_refusal_is_told_with_its_reason(bus: Bus) -> None:
    async with run_agents(bus, JudgingAgent(passes=False)):
        fate = await propose(bus, "sql", sha256=SHA, base_model="base", wait=20)
    assert isinstance(fate, AdapterRejected)
    assert describe_fate(fate, 20) == "rejected by the gates: it points along 'spice'"


async def test_a_publication_that_no_worker_takes_up_is_told(bus: Bus) -> None:
    async with run_agents(bus, JudgingAgent(activates=False)):
        fate = await propose(bus, "sql", sha256=SHA, base_model="base", wait=1.5)
    assert isinstance(fate, AdapterPublished)
    assert "the worker has not loaded it yet" in describe_fate(fate, 1.5)


async def test_nobody_who_judges_is_waited_for_no_longer_than_asked(bus: Bus) -> None:
    with anyio.fail_after(5):
        fate = await propose(bus, "sql", sha256=SHA, base_model="base", wait=0.3)
    assert fate is None
    assert describe_fate(fate, 0.3).startswith("proposed, and not judged within 0 s")
    stored = await bus.last(AdapterProposed, await read_only_life(bus), stream=ADAPTERS)
    assert stored is not None
    assert stored.sha256 == SHA


async def read_only_life(bus: Bus) -> str:
    (subject,) = await list_subjects(bus, ADAPTERS, bus.subjects.stage(AdapterProposed.subject))
    return subject.rpartition(".")[2]


async def test_the_worker_says_whether_it_sees_the_folder(bus: Bus) -> None:
    assert await is_listed(bus, "sql") is None
    async with run_agents(bus, JudgingAgent()):
        assert await is_listed(bus, "sql") is True
        assert await is_listed(bus, "rust") is False
