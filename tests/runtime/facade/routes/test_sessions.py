"""Sessions and episodes over HTTP, with a real memory behind."""

import contextlib
import hashlib
import os
import secrets
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import anyio
import httpx
import msgspec
import pytest

from agents.memory.agent import MemoryAgent
from agents.memory.imports import Line, told
from agents.memory.settings import MemorySettings
from bus.agent import Agent, Endpoint, run
from bus.connection import Bus
from bus.topology import EPISODES
from runtime.facade import FacadeSettings
from runtime.facade.routes.sessions import fingerprint
from runtime.records.transfer import bring
from schemas.chat import Message
from schemas.embedder import EmbedReply, EmbedRequest
from schemas.events import AnswerReady, EpisodeForgotten, EpisodeRecorded
from schemas.status import StatusReply
from tests.agents.memory.memories import eventually, projected, serving
from tests.agents.memory.scenes import SIZE, answered, turn, unit
from tests.runtime.facade.scripted import Script

pytestmark = pytest.mark.anyio
KEYS = {"ann-key": "ann", "bob-key": "bob"}
ANN = {"Authorization": "Bearer ann-key"}
BOB = {"Authorization": "Bearer bob-key"}


@pytest.fixture
def settings() -> FacadeSettings:
    return FacadeSettings(port=0, api_keys=KEYS)


async def embed(texts: Sequence[str]) -> Sequence[tuple[float, ...]]:
    return [unit(int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])) for text in texts]


class Embedding:
    """The router's embedding service, by a hash of the text."""

    name = "router"

    def open(self, bus: Bus) -> "Embedding":
        return self

    async def __aenter__(self) -> None:
        return None

    async def __aexit__(self, *_: object) -> None:
        return None

    def handlers(self) -> tuple[()]:
        return ()

    def endpoints(self) -> tuple[Endpoint, ...]:
        return (Endpoint(verb="embed", request=EmbedRequest, handle=self._embed),)

    def status(self) -> StatusReply:
        return StatusReply(agent=self.name, ready=True)

    async def _embed(self, request: EmbedRequest) -> EmbedReply:
        return EmbedReply(vectors=tuple(await embed(request.texts)), compute=0.0)


@pytest.fixture
async def memory(bus: Bus, tmp_path: Path) -> AsyncIterator[MemoryAgent]:
    """A memory of two tenants."""
    kept = MemorySettings(data_dir=tmp_path / "memory", vector_size=SIZE, lock_timeout=0.1, status_interval=0.05)
    router: Agent = Embedding()
    async with serving(bus, kept) as agent, anyio.create_task_group() as tasks:
        await tasks.start(run, router, bus)
        said = [Line(session="s/1", speaker="Ann", text=f"The secret word {n} is quetzal.", id=n) for n in range(3)]
        await bring(bus, told(said), embed, tenant="ann", tick=lambda _: None)
        other = [Line(session="s/1", speaker="Bob", text="The secret word is axolotl.", id="b")]
        await bring(bus, told(other), embed, tenant="bob", tick=lambda _: None)
        yield agent
        tasks.cancel_scope.cancel()


async def test_a_session_is_shown_to_its_tenant_alone(memory: MemoryAgent, http: httpx.AsyncClient) -> None:
    mine = (await http.get("/v1/sessions/s/1", headers=ANN)).json()
    assert [one["source_id"] for one in mine["episodes"]] == ["0", "1", "2"]
    theirs = (await http.get("/v1/sessions/s/1", headers=BOB)).text
    assert "axolotl" in theirs
    assert "quetzal" not in theirs
    missing = await http.get("/v1/sessions/other", headers=ANN)
    assert (missing.status_code, missing.json()["error"]["param"]) == (404, "session_id")
    assert (await http.get("/v1/sessions/s/1")).status_code == 401


async def test_episodes_are_searched_within_the_tenant(memory: MemoryAgent, http: httpx.AsyncClient) -> None:
    found = (await http.get("/v1/episodes", params={"query": "secret quetzal", "limit": 2}, headers=ANN)).json()["data"]
    assert len(found) == 2
    assert found[0]["score"] >= found[1]["score"]
    assert found[0]["reasons"]
    past = await http.get("/v1/episodes", params={"query": "secret", "as_of": 1.0}, headers=ANN)
    assert past.json()["data"] == []
    assert (await http.get("/v1/episodes", params={"query": " "}, headers=ANN)).status_code == 400


def files_with(text: str, *directories: Path) -> list[Path]:
    """Files that hold the text; what vanishes meanwhile does not."""
    found = []
    for folder, _, names in (entry for directory in directories for entry in os.walk(directory)):
        for path in (Path(folder, name) for name in names):
            with contextlib.suppress(FileNotFoundError):
                if text.encode() in path.read_bytes():
                    found.append(path)
    return found


async def test_a_deleted_session_is_gone_everywhere_and_stays_gone(
    bus: Bus, memory: MemoryAgent, http: httpx.AsyncClient, tmp_path_factory: pytest.TempPathFactory
) -> None:
    secret = secrets.token_hex(32)  # no compression can shorten it
    event = answered(turn(tenant="ann", session="s/1"), unit(5), text=f"Remember quetzal {secret}.", answer="I will.")
    await bus.publish(event)
    await projected(bus, 5, 5)
    record, atlas = tmp_path_factory.getbasetemp(), memory.settings.data_dir / "atlas"
    assert files_with(secret, *record.glob("nats*"))

    async def written() -> bool:
        return bool(files_with(secret, atlas))

    await eventually(written)
    gone = (await http.delete("/v1/sessions/s/1", headers=ANN)).json()
    assert (gone["deleted"], gone["episodes"]) == (True, 4)

    assert (await http.get("/v1/sessions/s/1", headers=ANN)).status_code == 404
    assert files_with(secret, *record.glob("nats*")) == []

    async def rewritten() -> bool:
        return not files_with(secret, atlas)

    await eventually(rewritten, seconds=60.0)  # rewriting runs at the lowest priority
    found = await http.get("/v1/episodes", params={"query": "quetzal"}, headers=ANN)
    assert found.json()["data"] == []
    assert "axolotl" in (await http.get("/v1/sessions/s/1", headers=BOB)).text
    turn_id = event.envelope.turn_id
    assert await bus.last(EpisodeRecorded, turn_id, stream=EPISODES) is None
    assert await bus.last(EpisodeForgotten, turn_id, stream=EPISODES) is not None
    assert await bus.last(AnswerReady, turn_id) is None

    await bus.publish(event, msg_id="delivered again")  # a redelivery must not bring it back
    await bus.publish(answered(turn(tenant="ann", session="s2"), unit(6)))
    await projected(bus, 2, 2)
    assert await bus.last(EpisodeRecorded, turn_id, stream=EPISODES) is None
    assert (await http.delete("/v1/sessions/s/1", headers=ANN)).json()["episodes"] == 0


def messages(*said: tuple[str, str]) -> list[Message]:
    return [msgspec.convert({"role": role, "content": text}, Message) for role, text in said]


def test_the_fingerprint_is_that_of_the_opening() -> None:
    first = messages(("system", "Be brief."), ("user", "Hi"))
    later = [*first, *messages(("assistant", "Hello"), ("user", "Bye"))]
    assert fingerprint(first) == fingerprint(later)
    assert fingerprint(first) != fingerprint(messages(("user", "Hi")))
    assert fingerprint(first) != fingerprint(messages(("system", "Be brief."), ("user", "Ho")))


async def test_turns_of_a_client_that_names_no_session_share_one(script: Script, http: httpx.AsyncClient) -> None:
    opening = [{"role": "user", "content": "My cat is Milo."}]
    more = [*opening, {"role": "assistant", "content": "Nice."}, {"role": "user", "content": "Who is Milo?"}]
    for said in (opening, more, [{"role": "user", "content": "Else"}]):
        body = {"model": "micro-kiki", "messages": said}
        assert (await http.post("/v1/chat/completions", json=body, headers=ANN)).status_code == 200
    first, second, third = (asked.envelope.session_id for asked in script.asked)
    assert first == second != third
