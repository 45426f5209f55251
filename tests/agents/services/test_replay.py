"""The record again: selected, paced, on a subject, on request."""

import dataclasses
import json
from collections.abc import AsyncGenerator
from datetime import UTC, datetime

import anyio
import msgspec
import pytest
from nats.aio.msg import Msg

from agents.services.replay import encode_line, fits, pace, read_selection
from agents.services.running_replays import MAX_RUNNING
from bus.connection import Bus
from bus.stream import StoredMessage
from schemas.calls import REPLAY_START, REPLAY_STOP
from schemas.codec import decode
from schemas.errors import KikiError
from schemas.events import EpisodeRecorded
from schemas.services import Replayed, ReplayRequest, ReplayStopRequest, Selection
from tests.agents.services.scenes import record, run_services
from tests.bus.conftest import eventually

pytestmark = pytest.mark.anyio


async def record_three(bus: Bus) -> None:
    await record(bus, ["one"], session="s1")
    await record(bus, ["two"], tenant="bob", session="s1")
    await record(bus, ["three"], session="s2")


async def select_questions(bus: Bus, **fields: object) -> list[str]:
    messages = [stored async for stored in read_selection(bus, Selection(**fields))]  # type: ignore[arg-type]
    return [decode(EpisodeRecorded, stored.data).episode.question for stored in messages]


@pytest.mark.parametrize("data", [b"\xff", b"{", b"null", b'{"envelope": {"tenant": 1}}', b'{"x": ' + b"[" * 50_000])
async def test_a_record_that_nobody_can_read_is_of_no_tenant_and_stops_no_replay(data: bytes) -> None:
    stored = StoredMessage(1, "kiki.episode.recorded.any", datetime.now(UTC), data)
    assert fits(Selection(), stored)
    assert not fits(Selection(tenant="alice"), stored)


async def test_a_selection_by_place_time_tenant_and_session(bus: Bus) -> None:
    await record_three(bus)
    assert await select_questions(bus) == ["one", "two", "three"]
    assert await select_questions(bus, from_seq=2) == ["two", "three"]
    assert await select_questions(bus, tenant="ann") == ["one", "three"]
    assert await select_questions(bus, tenant="ann", session_id="s1") == ["one"]
    stamps = [stored.stored_at.timestamp() async for stored in read_selection(bus, Selection())]
    assert await select_questions(bus, since=stamps[1] - 1e-6) == ["two", "three"]
    assert await select_questions(bus, until=stamps[1] + 1e-6) == ["one", "two"]
    assert await select_questions(bus, since=stamps[-1] + 60) == []


async def test_a_selection_by_user_knows_whose_older_events_are(bus: Bus) -> None:
    for user in ("mia", "tom", ""):
        await record(bus, [f"of {user}"], user=user)
    (old,) = await record(bus, ["of the person"], tenant="default", user="me")
    assert await select_questions(bus, tenant="ann", user="mia") == ["of mia"]
    assert await select_questions(bus, user="") == ["of "]
    stored = [message async for message in read_selection(bus, Selection(user="me"))]
    assert [decode(EpisodeRecorded, message.data).envelope.turn_id for message in stored] == [old.envelope.turn_id]
    body = json.loads(stored[0].data)
    del body["envelope"]["user"]
    before_users = dataclasses.replace(stored[0], data=json.dumps(body).encode())
    assert fits(Selection(user="me"), before_users)
    assert not fits(Selection(user=""), before_users)
    body["envelope"]["tenant"] = "ann"
    with_key = dataclasses.replace(stored[0], data=json.dumps(body).encode())
    assert fits(Selection(user=""), with_key)
    assert not fits(Selection(user="me"), with_key)


def test_an_unreadable_record_belongs_to_nobody() -> None:
    broken = StoredMessage(1, "kiki.episode.recorded.x", datetime.now(UTC), b"{")
    assert fits(Selection(), broken)
    assert not fits(Selection(tenant="ann"), broken)


async def test_a_line_keeps_place_time_and_bytes(bus: Bus) -> None:
    (event,) = await record(bus, ["one"])
    (stored,) = [stored async for stored in read_selection(bus, Selection())]
    entry = msgspec.json.decode(encode_line(stored), type=Replayed)
    assert (entry.seq, entry.subject, entry.stored_at) == (1, "episode.recorded", stored.stored_at.timestamp())
    assert decode(EpisodeRecorded, bytes(entry.event)) == event


async def test_recorded_speed_keeps_the_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    now, pauses = 5000.0, []

    async def sleep(seconds: float) -> None:
        nonlocal now
        pauses.append(round(seconds, 6))
        now += seconds

    async def yield_messages() -> AsyncGenerator[StoredMessage, None]:
        for seq, at in enumerate((100.0, 101.5, 101.5, 161.5), 1):
            yield StoredMessage(seq, "kiki.episode.recorded.x", datetime.fromtimestamp(at, UTC), b"{}")

    monkeypatch.setattr("agents.services.replay.anyio.sleep", sleep)
    monkeypatch.setattr("agents.services.replay.time.time", lambda: now)
    assert [message.seq async for message in pace(yield_messages(), "recorded")] == [1, 2, 3, 4]
    assert pauses == [0.0, 1.5, 0.0, 60.0]
    pauses.clear()
    assert [message.seq async for message in pace(yield_messages(), "full")] == [1, 2, 3, 4]
    assert pauses == []


async def start(bus: Bus, to: str = "copies.here", **settings: object) -> str:
    request = ReplayRequest(to=to, **settings)  # type: ignore[arg-type]
    return (await bus.request(REPLAY_START, request, timeout=5)).replay_id


async def collect_replay(bus: Bus, **settings: object) -> tuple[str, list[Msg]]:
    """Start a replay; returns its id and its messages, the one that ends it last."""
    subscription = await bus.client.subscribe("copies.here")
    replay_id = await start(bus, **settings)  # type: ignore[arg-type]
    messages: list[Msg] = []
    while not messages or "Kiki-Replay-End" not in (messages[-1].headers or {}):
        messages.append(await subscription.next_msg(timeout=5))
    await subscription.unsubscribe()
    return replay_id, messages


async def test_a_replay_on_request_and_its_end(bus: Bus) -> None:
    async with run_services(bus):
        await record_three(bus)
        replay_id, (first, second, end) = await collect_replay(bus, selection=Selection(tenant="ann"))
        assert [decode(EpisodeRecorded, message.data).episode.question for message in (first, second)] == [
            "one",
            "three",
        ]
        assert first.headers is not None
        assert (first.headers["Kiki-Replay"], first.headers["Kiki-Seq"]) == (replay_id, "1")
        assert end.headers == {"Kiki-Replay": replay_id, "Kiki-Replay-End": "2"}
        assert end.data == b""


async def test_a_fault_of_a_replay_ends_that_replay_and_tells_its_subject(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: StoredMessage) -> dict[str, str]:
        raise RuntimeError("broken")

    async with run_services(bus):
        await record_three(bus)
        with monkeypatch.context() as patch:
            patch.setattr("agents.services.running_replays.replay_headers", fail)
            replay_id, (end,) = await collect_replay(bus)
        assert end.headers == {
            "Kiki-Replay": replay_id,
            "Kiki-Replay-End": "0",
            "Kiki-Replay-Error": "internal_error",
        }
        assert len((await collect_replay(bus))[1]) == 4


@pytest.mark.parametrize("since", [1795915387000, 1e300, -1e18])
async def test_a_time_that_is_none_is_refused_and_nothing_is_replayed(bus: Bus, since: float) -> None:
    async with run_services(bus):
        body = {"to": "copies.here", "selection": {"since": since}}
        answer = await bus.client.request("kiki.svc.replay.start", msgspec.json.encode(body), timeout=5)
        assert (answer.headers or {})["Nats-Service-Error"]
        assert msgspec.json.decode(answer.data)["param"] == "selection.since"
        assert len((await collect_replay(bus))[1]) == 1


async def test_a_replay_can_be_stopped_and_there_is_a_bound(bus: Bus) -> None:
    async with run_services(bus):
        await record(bus, ["one"])
        await anyio.sleep(1.2)
        await record(bus, ["two"])
        ids = [await start(bus, speed="recorded") for _ in range(MAX_RUNNING)]
        with pytest.raises(KikiError) as full:
            await start(bus)
        assert full.value.code == "queue_full"
        subscription = await bus.client.subscribe("copies.here")
        for replay_id in ids:
            await bus.request(REPLAY_STOP, ReplayStopRequest(replay_id=replay_id), timeout=5)
        ended_ids: set[str] = set()
        while len(ended_ids) < MAX_RUNNING:
            headers = (await subscription.next_msg(timeout=5)).headers or {}
            if "Kiki-Replay-End" in headers:
                assert headers["Kiki-Replay-Error"] == "cancelled"
                ended_ids.add(headers["Kiki-Replay"])
        assert ended_ids == set(ids)

        async def is_gone() -> bool:
            with pytest.raises(KikiError) as refusal:
                await bus.request(REPLAY_STOP, ReplayStopRequest(replay_id=ids[0]), timeout=5)
            return (refusal.value.code, refusal.value.param) == ("invalid_request", "replay_id")

        await eventually(is_gone)


@pytest.mark.parametrize("subject", ["kiki.episode.recorded.x", "a..b", "a.*", "", "a b"])
async def test_a_subject_of_the_record_or_an_invalid_one_is_refused(bus: Bus, subject: str) -> None:
    async with run_services(bus):
        with pytest.raises(KikiError) as refusal:
            await start(bus, to=subject)
        assert refusal.value.param == "to"
