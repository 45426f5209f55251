"""``/v1/adapters``: for the administrator's key only, and only names."""

import httpx
import pytest
from nats.aio.msg import Msg

from agents.inference.failures import missing_adapter_error
from bus.connection import Bus
from runtime.facade import FacadeSettings
from schemas.adapters import AdapterInfo, AdapterListReply, AdapterRequest
from schemas.calls import ADAPTERS_CHECK, ADAPTERS_LOAD, ADAPTERS_LS
from schemas.codec import decode, encode
from schemas.status import ServiceError
from tests.runtime.facade.scripted import serve_facade

pytestmark = pytest.mark.anyio

KEY = {"authorization": "Bearer secret"}


@pytest.fixture(scope="module")
def settings() -> FacadeSettings:
    return FacadeSettings(port=0, admin_key="secret")


async def answer_as_worker(bus: Bus) -> list[str]:
    """Answer as the worker would; returns the list that the requested names are added to."""
    names: list[str] = []

    async def list_adapters(message: Msg) -> None:
        await message.respond(encode(AdapterListReply(adapters=(AdapterInfo(name="one", resident=True),), budget=5)))

    async def load(message: Msg) -> None:
        names.append(decode(AdapterRequest, message.data).name)
        await message.respond(encode(AdapterInfo(name=names[-1], resident=True, sha256="0" * 64)))

    await bus.client.subscribe(bus.subjects.service(ADAPTERS_LS.verb), cb=list_adapters)
    await bus.client.subscribe(bus.subjects.service(ADAPTERS_LOAD.verb), cb=load)
    await bus.flush()
    return names


async def test_the_administrator_lists_and_loads(http: httpx.AsyncClient, bus: Bus) -> None:
    names = await answer_as_worker(bus)
    listing = (await http.get("/v1/adapters", headers=KEY)).json()
    assert [(adapter["id"], adapter["resident"]) for adapter in listing["data"]] == [("one", True)]
    load_reply = await http.post("/v1/adapters/one/load", headers=KEY)
    assert (load_reply.status_code, load_reply.json()["resident"], names) == (200, True, ["one"])


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}])
async def test_other_keys_neither_list_nor_load(http: httpx.AsyncClient, headers: dict[str, str]) -> None:
    for reply in (
        await http.get("/v1/adapters", headers=headers),
        await http.post("/v1/adapters/one/load", headers=headers),
    ):
        assert (reply.status_code, reply.json()["error"]["code"]) == (401, "unauthorized")


async def test_adapters_are_closed_without_an_admin_key(bus: Bus) -> None:
    async with serve_facade(bus, FacadeSettings(port=0)) as url, httpx.AsyncClient(base_url=url) as open_:
        refusal = await open_.post("/v1/adapters/one/unload")
    assert refusal.status_code == 401
    assert "KIKI_ADMIN_KEY" in refusal.json()["error"]["message"]


@pytest.mark.parametrize(("path", "param"), [("one/burn", "verb"), ("..%2Fone/load", None), (".hidden/load", "name")])
async def test_paths_and_other_verbs_are_refused(
    http: httpx.AsyncClient, bus: Bus, path: str, param: str | None
) -> None:
    names = await answer_as_worker(bus)
    refusal = await http.post(f"/v1/adapters/{path}", headers=KEY)
    assert refusal.status_code in (400, 404)
    assert param is None or refusal.json()["error"]["param"] == param
    assert names == []


async def test_an_adapter_that_nobody_registered_is_not_found_by_name(http: httpx.AsyncClient, bus: Bus) -> None:
    async def refuse(message: Msg) -> None:
        error = missing_adapter_error(decode(AdapterRequest, message.data).name)
        body = ServiceError(code=error.code, message=error.message, param=error.param)
        headers = {"Nats-Service-Error-Code": "404", "Nats-Service-Error": error.message}
        await bus.client.publish(message.reply, encode(body), headers=headers)

    await bus.client.subscribe(bus.subjects.service(ADAPTERS_CHECK.verb), cb=refuse)
    await bus.flush()
    refusal = await http.post("/v1/adapters/nobody/check", headers=KEY)
    error = refusal.json()["error"]
    assert (refusal.status_code, error["code"], error["param"]) == (404, "adapter_not_found", "name")
    assert "'nobody'" in error["message"]
