"""The gate on a broker with users: a tenant's service gets its own turns and records, and nothing of anybody else's."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import anyio
import msgspec
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg

from agents.tenants.agent import TenantsAgent
from agents.tenants.settings import TenantsSettings
from bus.access.login import OWNER, Login, seed_file
from bus.broker import run_broker
from bus.connection import Bus, BusSettings, LiveMessage, connect
from bus.stream import measure_stream
from bus.tenant_client import TenantClient, connect_tenant
from bus.testing import run_agents
from bus.topology import EPISODES
from bus.turn import LATE_SECONDS
from runtime.access import list_users
from schemas.asyncapi.document import document
from schemas.chat import Message
from schemas.codec import decode, encode
from schemas.envelope import new_turn
from schemas.errors import InvalidInput, KikiError
from schemas.events import AnswerReady, InferToken, QueryReceived
from schemas.findings import Query
from schemas.status import ServiceError
from schemas.tenants import TenantAnswer, TenantPiece, TenantTurn
from tests.agents.memory.scenes import answer_ready
from tests.agents.services.scenes import make_episode_event

pytestmark = pytest.mark.anyio

USERS = ("ask.acme.bot", "ask.zoo.bot", "spy")
SECRET = "the tiger's code is 4711"


@dataclass(frozen=True)
class GuardedRuntime:
    """A broker with users, a gate, and the owner's connection."""

    url: str
    directory: Path
    owner: Bus

    def login(self, user: str) -> Login:
        return Login(nkey=seed_file(self.directory, user))


@pytest.fixture(scope="module")
async def place(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[GuardedRuntime]:
    """Everybody is there; each question is answered by itself, and recorded."""
    directory = tmp_path_factory.mktemp("tenants") / "nats"
    users = list_users(directory, "kiki", *USERS)
    async with (
        run_broker(directory, port=0, users=users) as broker,
        connect(settings_of(broker.url, directory, "memory"), name="memory") as memory,
        connect(settings_of(broker.url, directory, "tenants"), name="tenants") as gate,
        connect(settings_of(broker.url, directory, OWNER), name="owner") as owner,
    ):
        await memory.reconcile()
        stop = await owner.listen("kiki.query.received.*", answerer(owner))
        async with run_agents(gate, TenantsAgent(TenantsSettings(requests_at_once=4, scan=8))):
            yield GuardedRuntime(broker.url, directory, owner)
        await stop()


def settings_of(url: str, directory: Path, user: str) -> BusSettings:
    return BusSettings(url=url, login=Login(nkey=seed_file(directory, user)), publish_timeout=2.0)


def answerer(bus: Bus) -> Callable[[LiveMessage], Awaitable[None]]:
    """Answers a question with itself, in two pieces; one that begins with 'wait' is left alone."""

    async def answer(message: LiveMessage) -> None:
        event = decode(QueryReceived, message.data)
        text = event.query.text
        if text.startswith("wait"):
            return
        for index, piece in enumerate((text[:4], text[4:])):
            await bus.signal(InferToken(turn_id=event.envelope.turn_id, attempt=1, index=index, text=piece))
        await bus.publish(answer_ready(event.envelope, answer=text))

    return answer


def ask_for(text: str, **fields: object) -> TenantTurn:
    query = Query(model="micro-kiki-fast", messages=(Message(role="user", content=text),))
    return TenantTurn(query=query, timeout=5.0, **fields)  # type: ignore[arg-type]


@asynccontextmanager
async def tenant(place: GuardedRuntime, name: str) -> AsyncIterator[TenantClient]:
    async with connect_tenant(place.url, seed_file(place.directory, f"ask.{name}.bot")) as client:
        yield client


async def test_a_tenants_service_gets_its_answer_in_pieces_and_whole(place: GuardedRuntime) -> None:
    async with tenant(place, "acme") as acme:
        whole = await acme.ask(ask_for("How many lions?", user="ann", session_id="s1"))
        assert (whole.text, whole.session_id) == ("How many lions?", "s1")
        pieces = [item async for item in acme.stream(ask_for("How many lions?"))]
    assert [item.text for item in pieces if isinstance(item, TenantPiece)] == ["How ", "many lions?"]
    assert isinstance(pieces[-1], TenantAnswer)
    assert pieces[-1].text == "How many lions?"
    received = await place.owner.last(QueryReceived, whole.turn_id)
    assert received is not None
    assert (received.envelope.tenant, received.envelope.user) == ("acme", "ann")


async def test_the_end_of_a_turn_is_given_to_its_tenant_alone(place: GuardedRuntime) -> None:
    async with tenant(place, "acme") as acme, tenant(place, "zoo") as zoo:
        own = await zoo.ask(ask_for(SECRET))
        assert (await zoo.find_answer(own.turn_id)).text == SECRET
        refusals = []
        for turn_id in (own.turn_id, "no-such-turn"):
            with pytest.raises(KikiError) as refusal:
                await acme.find_answer(turn_id)
            refusals.append((refusal.value.code, refusal.value.message.replace(turn_id, "")))
        assert refusals[0] == refusals[1] == ("turn_not_found", "there is no turn ''.")


async def test_records_are_read_page_by_page_and_are_the_tenants_own(place: GuardedRuntime) -> None:
    for number in range(12):
        for name in ("acme", "zoo"):
            event = make_episode_event(f"{name} {number}", tenant=name, user="ann" if number % 2 else "bea")
            await place.owner.publish(event)
    async with tenant(place, "acme") as acme:
        for user, count in ((None, 12), ("ann", 6), ("nobody", 0)):
            questions, after, more = [], 0, True
            while more:
                page = await acme.read_records(after=after, limit=5, user=user)
                questions += [record.episode.question for record in page.records if record.episode is not None]
                after, more = page.after, page.more
            assert len(questions) == count
            assert all(question.startswith("acme ") for question in questions)


async def test_a_tenant_with_many_requests_is_refused_and_the_others_go_on(place: GuardedRuntime) -> None:
    async with tenant(place, "acme") as acme, tenant(place, "zoo") as zoo:
        body = encode(msgspec.structs.replace(ask_for("wait"), timeout=0.5))
        for _ in range(4):
            await acme.connection.publish("kiki.ask.acme.turn", body, reply=acme.connection.new_inbox())
        with pytest.raises(KikiError, match="4 requests are in hand") as refusal:
            await acme.read_records()
        assert refusal.value.code == "queue_full"
        assert (await zoo.ask(ask_for("and I?"))).text == "and I?"
        await anyio.sleep(0.5 + LATE_SECONDS + 0.5)
        await acme.read_records()


class Hostile:
    """A tenant's connection that tries what it may not do, and keeps whatever reaches it."""

    def __init__(self) -> None:
        self.client = Client()
        self.heard: list[bytes] = []
        self.refused: list[str] = []

    async def note(self, error: Exception) -> None:
        self.refused.append(str(error))

    async def keep(self, message: Msg) -> None:
        self.heard.append(message.data)


@asynccontextmanager
async def hostile(place: GuardedRuntime, user: str, inbox: str) -> AsyncIterator[Hostile]:
    attacker = Hostile()
    options = place.login(user).options() | {"inbox_prefix": inbox}
    await attacker.client.connect(place.url, error_cb=attacker.note, allow_reconnect=False, **options)
    try:
        yield attacker
    finally:
        await attacker.client.close()


EAVESDROPPING = (
    *(
        ">",
        "*",
        "kiki.>",
        "kiki.*.*.*",
        "kiki.ask.>",
        "kiki.ask.zoo.>",
        "kiki.ask.acme.>",
        "kiki.ask.*.turn",
        "kiki.svc.>",
    ),
    *("_INBOX.>", "_INBOX.ask.>", "_INBOX.ask.*.>", "_INBOX.ask.zoo.>", "_INBOX.ask.zoo.bot.>", "_INBOX.tenants.>"),
    *("$JS.>", "$JS.API.>", "$JS.EVENT.>", "$SYS.>", "$O.>", "$KV.>", "$SRV.>", "replays.>"),
)

WRITING = (
    *("kiki.ask.zoo.turn", "kiki.ask.zoo.records", "kiki.ask.acme", "kiki.ask.*.turn", "kiki.ask.>", "kiki.ask"),
    *("kiki.query.received.t1", "kiki.turn.cancelled.t1", "kiki.answer.ready.t1", "kiki.episode.forgotten.t1"),
    *("kiki.svc.memory.search", "kiki.svc.memory.forget", "kiki.svc.services.fetch", "kiki.svc.replay.start"),
    *("kiki.job.interactive.t1", "kiki.dead.router", "_INBOX.ask.zoo.bot.1", "_INBOX.tenants.1", "$SRV.INFO"),
    *("$JS.API.INFO", "$JS.API.STREAM.LIST", "$JS.API.STREAM.MSG.GET.EPISODES", "$JS.API.DIRECT.GET.EPISODES"),
    *("$JS.API.CONSUMER.CREATE.EPISODES", "$JS.API.STREAM.PURGE.EPISODES", "$JS.API.STREAM.DELETE.EPISODES"),
    *("$JS.ACK.EPISODES.x.1.1.1.1.1", "$SYS.REQ.SERVER.PING", "$O.kiki-objects.C.1"),
)


async def test_a_hostile_tenant_hears_and_changes_nothing_of_another(place: GuardedRuntime) -> None:
    async with tenant(place, "zoo") as zoo, hostile(place, "ask.acme.bot", "_INBOX.ask.zoo.bot") as attacker:
        before = await measure_stream(place.owner, EPISODES)
        for subject in EAVESDROPPING:
            await attacker.client.subscribe(subject, cb=attacker.keep)
        for subject in WRITING:
            await attacker.client.publish(subject, b"{}", reply="_INBOX.ask.acme.bot.1")
        await attacker.client.subscribe("_INBOX.ask.acme.bot.>", cb=attacker.keep)
        await attacker.client.flush()
        assert (await zoo.ask(ask_for(SECRET))).text == SECRET
        assert [item async for item in zoo.stream(ask_for(SECRET))]
        await place.owner.publish(make_episode_event(SECRET, tenant="zoo"))
        await zoo.read_records()
        await attacker.client.flush()
        await anyio.sleep(0.2)
        assert attacker.heard == []
        refused = "\n".join(attacker.refused)
        assert [subject for subject in EAVESDROPPING if f'subscription to "{subject.lower()}"' not in refused] == []
        assert [subject for subject in WRITING if f'publish to "{subject.lower()}"' not in refused] == []
        after = await measure_stream(place.owner, EPISODES)
        assert after.messages == before.messages + 1


async def test_the_gate_answers_on_no_reply_subject_but_the_tenants_own(place: GuardedRuntime) -> None:
    """A tenant must not have the gate write for it what the broker refuses to itself."""
    heard: list[bytes] = []

    async def keep(message: LiveMessage) -> None:
        heard.append(message.data)

    targets: tuple[str, ...] = (
        "_INBOX.ask.zoo.bot.1",
        "kiki.query.received.t9",
        "kiki.episode.forgotten.t9",
        "_INBOX.owner.1",
    )
    targets += ("$JS.API.STREAM.PURGE.EPISODES", "_INBOX.ask.acme", "_INBOX.ask.acmee.bot.1", "kiki.ask.zoo.turn")
    stops = [await place.owner.listen(target, keep) for target in targets if not target.startswith("kiki.ask")]
    before = await measure_stream(place.owner, EPISODES)
    async with hostile(place, "ask.acme.bot", "_INBOX.ask.acme.bot") as attacker:
        for target in targets:
            for verb in ("records", "turn", "end", "nonsense"):
                await attacker.client.publish(f"kiki.ask.acme.{verb}", b"{}", reply=target)
        await attacker.client.publish("kiki.ask.acme.records", b"{}")
        await attacker.client.flush()
        async with tenant(place, "acme") as acme:
            assert (await acme.ask(ask_for("still there?"))).text == "still there?"
    assert heard == []
    assert await measure_stream(place.owner, EPISODES) == before
    for stop in stops:
        await stop()


async def test_a_request_that_claims_another_tenant_is_refused(place: GuardedRuntime) -> None:
    async with tenant(place, "acme") as acme:
        turn_id = (await acme.ask(ask_for("mine"))).turn_id
        for verb, body in {
            "turn": b'{"query": {"model": "m", "messages": [{"role": "user", "content": "x"}]}, "tenant": "zoo"}',
            "records": b'{"tenant": "zoo"}',
            "end": b'{"turn_id": "' + turn_id.encode() + b'", "tenant": "zoo"}',
            "purge": b"{}",
        }.items():
            reply = await acme.connection.request(f"kiki.ask.acme.{verb}", body, timeout=5)
            assert reply.headers["Nats-Service-Error-Code"] == "400"


async def test_the_contract_names_what_a_tenant_may_ask(place: GuardedRuntime) -> None:
    channels = document(prefix="kiki")["channels"].values()
    addresses = {str(channel["address"]) for channel in channels if ".ask." in str(channel["address"])}
    async with tenant(place, "acme") as acme:
        reply = await acme.connection.request("kiki.ask.acme.anything", b"{}", timeout=5)
    verbs = decode(ServiceError, reply.data).message.partition("choose from ")[2].rstrip(".").split(", ")
    assert addresses == {f"kiki.ask.{{tenant}}.{verb}" for verb in verbs}


async def test_a_trusted_service_asks_and_hears_and_takes_nothing_from_the_record(
    place: GuardedRuntime,
) -> None:
    async with hostile(place, "spy", "_INBOX.spy") as spy:
        js = spy.client.jetstream()
        await spy.client.subscribe("kiki.*.*.*", cb=spy.keep)
        async with connect(BusSettings(url=place.url, login=place.login("spy")), name="spy") as bus:
            envelope = new_turn(tenant="spies", timeout=5)
            query = Query(model="m", messages=(Message(role="user", content="hello"),))
            answer: AnswerReady = await bus.publish_and_wait(QueryReceived(envelope=envelope, query=query))
            assert answer.text == "hello"
        before = await measure_stream(place.owner, EPISODES)
        await js.publish("kiki.query.received.t7", b"{}")
        for api in ("DIRECT.GET.TURNS.kiki.query.received.t7", "CONSUMER.CREATE.TURNS", "STREAM.PURGE.EPISODES"):
            await spy.client.publish(f"$JS.API.{api}", b"", reply="$JS.API.STREAM.PURGE.EPISODES")
        await spy.client.publish("kiki.episode.forgotten.t7", b"{}")
        await spy.client.flush()
        await anyio.sleep(0.2)
        assert await measure_stream(place.owner, EPISODES) == before
        assert len(spy.refused) == 4
        assert spy.heard


async def test_a_file_that_is_no_tenants_is_named(place: GuardedRuntime) -> None:
    with pytest.raises(InvalidInput, match="no tenant's file"):
        async with connect_tenant(place.url, seed_file(place.directory, "spy")):
            pass
