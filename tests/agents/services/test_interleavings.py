"""Whatever happens in whatever order, each record is marked once, in order, and none is lost."""

import random
from contextlib import AsyncExitStack, suppress

import pytest
from nats.errors import Error as NatsError

from agents.services.settings import ServicesSettings
from bus.connection import Bus
from bus.stream import read_stream
from bus.topology import EPISODES, SERVICES
from schemas.calls import SERVICES_TRIM
from schemas.codec import decode
from schemas.errors import KikiError
from schemas.events import EpisodeRecorded
from schemas.services import EpisodeFilter, EpisodesConsumed, TrimRequest
from tests.agents.services.scenes import fetch, forget, make_episode_event, mark, register, run_services

pytestmark = pytest.mark.anyio

STEPS = 60
WEIGHTS = {
    "record": 6,
    "fetch": 5,
    "mark": 5,
    "acknowledge": 3,
    "remove": 1,
    "restart": 1,
    "forget": 2,
    "trim": 2,
    "spoil": 1,
}


class Interleaving:
    """Services, their record, and what is known of both."""

    def __init__(self, bus: Bus, seed: int) -> None:
        self.bus = bus
        self.rng = random.Random(seed)
        self.filters = {"whole": EpisodeFilter(), "narrow": EpisodeFilter(tenant="ann")}
        self.hands: dict[str, list[int]] = {name: [] for name in self.filters}
        self.wanted_ids: dict[str, list[int]] = {name: [] for name in self.filters}
        self.events: dict[int, EpisodeRecorded] = {}
        self.forgotten_ids: set[int] = set()
        self._running = AsyncExitStack()

    async def start(self) -> None:
        """Start the services' agent."""
        await self._running.enter_async_context(
            run_services(self.bus, ServicesSettings(watch_interval=0.02, poll=0.02))
        )

    async def stop(self) -> None:
        """Stop the services' agent."""
        await self._running.aclose()
        self._running = AsyncExitStack()

    async def act(self) -> None:
        """Do one thing, drawn by chance."""
        (name,) = self.rng.choices(list(WEIGHTS), weights=list(WEIGHTS.values()))
        await getattr(self, f"do_{name}")(self.rng.choice(list(self.filters)))

    async def do_record(self, _: str) -> None:
        """Record an episode of one of two tenants."""
        tenant = self.rng.choice(["ann", "bob"])
        event = make_episode_event("a question", tenant=tenant)
        await self.bus.publish(event)
        self._note(await self._find_last(), tenant, event)

    def _note(self, seq: int, tenant: str, event: EpisodeRecorded | None = None) -> None:
        if event is not None:
            self.events[seq] = event
        for name, criteria in self.filters.items():
            if criteria.tenant in (None, tenant):
                self.wanted_ids[name].append(seq)

    async def _find_last(self) -> int:
        return int((await self.bus.js.stream_info(EPISODES)).state.last_seq)

    async def do_fetch(self, name: str) -> None:
        """Fetch; what comes is what follows the place, without a gap."""
        ids = [entry.id for entry in await fetch(self.bus, name, limit=self.rng.randint(1, 6))]
        marked_ids = await self.read_marks(name)
        place = marked_ids[-1] if marked_ids else 0
        waiting = [seq for seq in self.wanted_ids[name] if seq > place and seq not in self.forgotten_ids]
        assert ids == waiting[: len(ids)]
        assert ids or not waiting
        self.hands[name] = ids

    async def do_mark(self, name: str) -> None:
        """Mark a part of what is in hand; sometimes twice, sometimes out of order."""
        ids = self.hands[name][: self.rng.randint(1, 6)]
        if not ids:
            return
        if len(ids) > 2 and self.rng.random() < 0.2:
            with pytest.raises(KikiError):
                await mark(self.bus, ids[1:] if ids[0] not in self.forgotten_ids else ids[::-1], name=name)
            return
        for _ in range(self.rng.randint(1, 2)):
            reply = await mark(self.bus, ids, name=name, de_id=f"de-{ids[0]}")
            assert set(reply.forgotten) == set(ids) & self.forgotten_ids
        self.hands[name] = self.hands[name][len(ids) :]

    async def do_acknowledge(self, name: str) -> None:
        """Pull with a stock client, and acknowledge."""
        with suppress(TimeoutError, NatsError):
            subscription = await self.bus.js.pull_subscribe_bind(durable=f"svc-{name}", stream=EPISODES)
            for message in await subscription.fetch(self.rng.randint(1, 3), timeout=0.1):
                await message.ack()

    async def do_remove(self, name: str) -> None:
        """Remove the consumer; the service may register again."""
        with suppress(NatsError):
            await self.bus.js.delete_consumer(EPISODES, f"svc-{name}")
        if self.rng.random() < 0.5:
            with suppress(KikiError):
                await register(self.bus, name, filter=self.filters[name])

    async def do_restart(self, _: str) -> None:
        """End the agent and start it again."""
        await self.stop()
        await self.start()

    async def do_forget(self, _: str) -> None:
        """Forget an episode that is still in the record."""
        stored = [message.seq async for message in read_stream(self.bus, EPISODES, self.bus.subjects.episodes)]
        seqs = [seq for seq in stored if seq in self.events]
        if seqs:
            seq = self.rng.choice(seqs)
            event = self.events[seq]
            await forget(self.bus, event)
            self.forgotten_ids.add(seq)
            self._note(await self._find_last(), event.envelope.tenant)

    async def do_trim(self, _: str) -> None:
        """Drop what everybody has consumed."""
        await self.bus.request(SERVICES_TRIM, TrimRequest(before=4e9), timeout=5)

    async def do_spoil(self, name: str) -> None:
        """Publish what nobody can read into the log and into the record."""
        for subject in ("service.consumed", "service.registered"):
            await self.bus.js.publish(self.bus.subjects.stage(subject, name), b"{")
        await self.bus.js.publish(self.bus.subjects.stage("episode.recorded", f"x{self.rng.getrandbits(32)}"), b"{")

    async def read_marks(self, name: str) -> list[int]:
        """The records that the log has as consumed by the service, in the log's order."""
        subject = self.bus.subjects.stage(EpisodesConsumed.subject, name)
        ids: list[int] = []
        async for message in read_stream(self.bus, SERVICES, [subject]):
            if message.data != b"{":
                ids += decode(EpisodesConsumed, message.data).ids
        return ids


@pytest.mark.parametrize("seed", range(8))
async def test_each_record_is_marked_once_in_order_and_none_is_lost(bus: Bus, seed: int) -> None:
    scene = Interleaving(bus, seed)
    await scene.start()
    try:
        for name, criteria in scene.filters.items():
            await register(bus, name, filter=criteria)
        for _ in range(STEPS):
            await scene.act()
        for name in scene.filters:
            while records := await fetch(bus, name):
                await mark(bus, [entry.id for entry in records], name=name, de_id="rest")
            ids = await scene.read_marks(name)
            assert ids == sorted(set(ids))
            assert set(scene.wanted_ids[name]) - scene.forgotten_ids <= set(ids) <= set(scene.wanted_ids[name])
        assert (await bus.request(SERVICES_TRIM, TrimRequest(before=4e9), timeout=5)).held_by == ""
    finally:
        await scene.stop()
