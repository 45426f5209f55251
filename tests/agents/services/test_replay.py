"""The record again: selected, paced, on a subject, on request."""

from collections.abc import AsyncGenerator
from datetime import UTC, datetime

import anyio
import msgspec
import pytest
from nats.aio.msg import Msg

from agents.services.replay import fits, line, paced, selected
from agents.services.running_replays import AT_ONCE
from bus.connection import Bus
from bus.stream import Stored
from schemas.codec import decode
from schemas.errors import KikiError
from schemas.events import EpisodeRecorded
from schemas.services import Replayed, ReplayReply, ReplayRequest, ReplayStopReply, ReplayStopRequest, Selection
from tests.agents.services.scenes import record, serving
from tests.bus.conftest import eventually

pytestmark = pytest.mark.anyio


async def three(bus: Bus) -> None:
    await record(bus, ["one"], session="s1")
    await record(bus, ["two"], tenant="bob", session="s1")
    await record(bus, ["three"], session="s2")


async def questions(bus: Bus, **chosen: object) -> list[str]:
    found = [stored async for stored in selected(bus, Selection(**chosen))]  # type: ignore[arg-type]
    return [decode(EpisodeRecorded, stored.data).episode.question for stored in found]


async def test_a_selection_by_place_time_tenant_and_session(bus: Bus) -> None:
    await three(bus)
    assert await questions(bus) == ["one", "two", "three"]
    assert await questions(bus, from_seq=2) == ["two", "three"]
    assert await questions(bus, tenant="ann") == ["one", "three"]
    assert await questions(bus, tenant="ann", session_id="s1") == ["one"]
    stamps = [stored.stored_at.timestamp() async for stored in selected(bus, Selection())]
    assert await questions(bus, since=stamps[1] - 1e-6) == ["two", "three"]
    assert await questions(bus, until=stamps[1] + 1e-6) == ["one", "two"]
    assert await questions(bus, since=stamps[-1] + 60) == []


def test_what_nobody_can_read_belongs_to_nobody() -> None:
    broken = Stored(1, "kiki.episode.recorded.x", datetime.now(UTC), b"{")
    assert fits(Selection(), broken)
    assert not fits(Selection(tenant="ann"), broken)


async def test_a_line_keeps_place_time_and_bytes(bus: Bus) -> None:
    (event,) = await record(bus, ["one"])
    (stored,) = [stored async for stored in selected(bus, Selection())]
    said = msgspec.json.decode(line(stored), type=Replayed)
    assert (said.seq, said.subject, said.stored_at) == (1, "episode.recorded", stored.stored_at.timestamp())
    assert decode(EpisodeRecorded, bytes(said.event)) == event


async def test_recorded_speed_keeps_the_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    now, slept = 5000.0, []

    async def sleep(seconds: float) -> None:
        nonlocal now
        slept.append(round(seconds, 6))
        now += seconds

    async def stored() -> AsyncGenerator[Stored, None]:
        for seq, at in enumerate((100.0, 101.5, 101.5, 161.5), 1):
            yield Stored(seq, "kiki.episode.recorded.x", datetime.fromtimestamp(at, UTC), b"{}")

    monkeypatch.setattr("agents.services.replay.anyio.sleep", sleep)
    monkeypatch.setattr("agents.services.replay.time.time", lambda: now)
    assert [one.seq async for one in paced(stored(), "recorded")] == [1, 2, 3, 4]
    assert slept == [0.0, 1.5, 0.0, 60.0]
    slept.clear()
    assert [one.seq async for one in paced(stored(), "full")] == [1, 2, 3, 4]
    assert slept == []


async def start(bus: Bus, to: str = "copies.here", **settings: object) -> str:
    request = ReplayRequest(to=to, **settings)  # type: ignore[arg-type]
    return (await bus.request("replay.start", request, ReplayReply, timeout=5)).replay_id


async def heard(bus: Bus, **settings: object) -> tuple[str, list[Msg]]:
    """A replay's messages with the one that ends it."""
    subscription = await bus.client.subscribe("copies.here")
    replay_id = await start(bus, **settings)  # type: ignore[arg-type]
    found: list[Msg] = []
    while not found or "Kiki-Replay-End" not in (found[-1].headers or {}):
        found.append(await subscription.next_msg(timeout=5))
    await subscription.unsubscribe()
    return replay_id, found


async def test_a_replay_on_request_and_its_end(bus: Bus) -> None:
    async with serving(bus):
        await three(bus)
        replay_id, (first, second, end) = await heard(bus, selection=Selection(tenant="ann"))
        assert [decode(EpisodeRecorded, one.data).episode.question for one in (first, second)] == ["one", "three"]
        assert first.headers is not None
        assert (first.headers["Kiki-Replay"], first.headers["Kiki-Seq"]) == (replay_id, "1")
        assert end.headers == {"Kiki-Replay": replay_id, "Kiki-Replay-End": "2"}
        assert end.data == b""


async def test_a_replay_can_be_stopped_and_there_is_a_bound(bus: Bus) -> None:
    async with serving(bus):
        await record(bus, ["one"])
        await anyio.sleep(1.2)
        await record(bus, ["two"])
        ids = [await start(bus, speed="recorded") for _ in range(AT_ONCE)]
        with pytest.raises(KikiError) as full:
            await start(bus)
        assert full.value.code == "queue_full"
        subscription = await bus.client.subscribe("copies.here")
        for one in ids:
            await bus.request("replay.stop", ReplayStopRequest(replay_id=one), ReplayStopReply, timeout=5)
        ended: set[str] = set()
        while len(ended) < AT_ONCE:
            headers = (await subscription.next_msg(timeout=5)).headers or {}
            if "Kiki-Replay-End" in headers:
                assert headers["Kiki-Replay-Error"] == "cancelled"
                ended.add(headers["Kiki-Replay"])
        assert ended == set(ids)

        async def gone() -> bool:
            with pytest.raises(KikiError) as caught:
                await bus.request("replay.stop", ReplayStopRequest(replay_id=ids[0]), ReplayStopReply, timeout=5)
            return (caught.value.code, caught.value.param) == ("invalid_request", "replay_id")

        await eventually(gone)


@pytest.mark.parametrize("subject", ["kiki.episode.recorded.x", "a..b", "a.*", "", "a b"])
async def test_a_subject_that_would_falsify_the_record_or_is_none_is_refused(bus: Bus, subject: str) -> None:
    async with serving(bus):
        with pytest.raises(KikiError) as caught:
            await start(bus, to=subject)
        assert caught.value.param == "to"
