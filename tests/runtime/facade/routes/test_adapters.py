"""``/v1/adapters``: for the administrator's key only, and only names."""

import httpx
import pytest
from nats.aio.msg import Msg

from bus.connection import Bus
from runtime.facade import FacadeSettings
from schemas.adapters import AdapterInfo, AdapterListReply, AdapterRequest
from schemas.codec import decode, encode
from tests.runtime.facade.scripted import serving

pytestmark = pytest.mark.anyio

KEY = {"authorization": "Bearer secret"}


@pytest.fixture
def settings() -> FacadeSettings:
    return FacadeSettings(port=0, admin_key="secret")


async def worker(bus: Bus) -> list[str]:
    """Answers as the worker would. Returns the names it is asked for."""
    asked: list[str] = []

    async def listed(message: Msg) -> None:
        await message.respond(encode(AdapterListReply(adapters=(AdapterInfo(name="one", resident=True),), budget=5)))

    async def load(message: Msg) -> None:
        asked.append(decode(AdapterRequest, message.data).name)
        await message.respond(encode(AdapterInfo(name=asked[-1], resident=True, sha256="0" * 64)))

    await bus.client.subscribe(bus.subjects.service("adapters.ls"), cb=listed)
    await bus.client.subscribe(bus.subjects.service("adapters.load"), cb=load)
    return asked


async def test_the_administrator_lists_and_loads(http: httpx.AsyncClient, bus: Bus) -> None:
    asked = await worker(bus)
    found = (await http.get("/v1/adapters", headers=KEY)).json()
    assert [(one["id"], one["resident"]) for one in found["data"]] == [("one", True)]
    loaded = await http.post("/v1/adapters/one/load", headers=KEY)
    assert (loaded.status_code, loaded.json()["resident"], asked) == (200, True, ["one"])


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}])
async def test_nobody_else_does(http: httpx.AsyncClient, headers: dict[str, str]) -> None:
    for reply in (
        await http.get("/v1/adapters", headers=headers),
        await http.post("/v1/adapters/one/load", headers=headers),
    ):
        assert (reply.status_code, reply.json()["error"]["code"]) == (401, "unauthorized")


async def test_without_an_admin_key_nobody_may(bus: Bus) -> None:
    async with serving(bus, FacadeSettings(port=0)) as url, httpx.AsyncClient(base_url=url) as open_:
        refused = await open_.post("/v1/adapters/one/unload")
    assert refused.status_code == 401
    assert "KIKI_ADMIN_KEY" in refused.json()["error"]["message"]


@pytest.mark.parametrize(("path", "param"), [("one/burn", "verb"), ("..%2Fone/load", None), (".hidden/load", "name")])
async def test_paths_and_other_verbs_are_refused(
    http: httpx.AsyncClient, bus: Bus, path: str, param: str | None
) -> None:
    asked = await worker(bus)
    refused = await http.post(f"/v1/adapters/{path}", headers=KEY)
    assert refused.status_code in (400, 404)
    assert param is None or refused.json()["error"]["param"] == param
    assert asked == []
