"""What pages in a browser may do: without keys nothing from elsewhere; by the setting, those of the list."""

import socket
from collections.abc import AsyncIterator

import httpx
import pytest

from bus.broker import EmbeddedBroker
from bus.connection import Bus, BusSettings, connect
from runtime.facade import FacadeSettings
from runtime.facade.browsers import is_loopback
from schemas.errors import SetupError
from tests.runtime.facade.scripted import Script, chat_body, serve_facade

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
LISTED, FOREIGN = "https://chat.example.com", "http://evil.example"
PREFLIGHT = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,x-stainless-os"}


@pytest.fixture(scope="module")
async def door(broker: EmbeddedBroker) -> AsyncIterator[Bus]:
    async with connect(BusSettings(url=broker.url), name="facade") as bus:
        await bus.reconcile()
        yield bus


@pytest.fixture(scope="module")
async def listing(door: Bus) -> AsyncIterator[httpx.AsyncClient]:
    """A facade without keys that knows one page and one name of its own."""
    settings = FacadeSettings(port=0, cors_origins=(LISTED,), allowed_hosts=("*.kiki.lan",))
    async with serve_facade(door, settings) as url, httpx.AsyncClient(base_url=url, timeout=20) as client:
        yield client


@pytest.fixture(scope="module")
async def keyed(door: Bus) -> AsyncIterator[httpx.AsyncClient]:
    settings = FacadeSettings(port=0, api_keys={"k": "t"}, cors_origins=(LISTED,))
    async with serve_facade(door, settings) as url, httpx.AsyncClient(base_url=url, timeout=20) as client:
        yield client


def check_refusal(reply: httpx.Response, param: str) -> None:
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["param"]) == (403, "forbidden", param)
    assert error["type"] == "invalid_request_error"
    assert reply.headers["x-request-id"]


@pytest.mark.parametrize("origin", [FOREIGN, "null", "http://localhost:3000", "https://chat.example.com.evil.example"])
@pytest.mark.parametrize("kind", ["text/plain", "application/json"])
async def test_a_strange_page_plants_nothing_in_a_server_without_keys(
    http: httpx.AsyncClient, script: Script, origin: str, kind: str
) -> None:
    reply = await http.post(CHAT, json=chat_body(), headers={"origin": origin, "content-type": kind})
    check_refusal(reply, "Origin")
    assert [name for name in reply.headers if name.startswith("access-control-")] == []
    assert script.queries == []


@pytest.mark.parametrize("path", ["/v1/sessions/s-1", "/v1/models", "/health", "/metrics", "/v1/nothing"])
@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "evil.example:8000", "127.0.0.1.evil.example", "a@127.0.0.1", "9"],
)
async def test_a_strange_host_reads_nothing_of_a_server_without_keys(
    http: httpx.AsyncClient, host: str, path: str
) -> None:
    check_refusal(await http.get(path, headers={"host": host}), "Host")


@pytest.mark.parametrize(
    "host",
    ["localhost", "LOCALHOST:1234", "localhost.", "kiki.localhost:8000", "127.0.0.1", "127.9.9.9:80", "[::1]:8000"],
)
async def test_loopback_may_be_named_as_anybody_likes(http: httpx.AsyncClient, host: str) -> None:
    assert (await http.get("/v1/models", headers={"host": host})).status_code == 200


async def test_a_page_of_the_server_itself_may_ask(http: httpx.AsyncClient, script: Script) -> None:
    own = str(http.base_url).rstrip("/")
    assert (await http.post(CHAT, json=chat_body(), headers={"origin": own})).status_code == 200
    through_tls = {"origin": "https://localhost:8443", "host": "localhost:8443"}
    assert (await http.post(CHAT, json=chat_body(), headers=through_tls)).status_code == 200
    other_port = {"origin": "http://localhost:3000", "host": "localhost:8443"}
    check_refusal(await http.post(CHAT, json=chat_body(), headers=other_port), "Origin")


async def test_the_address_of_the_connection_is_an_own_host(door: Bus) -> None:
    """A server on all addresses is reached under each of them; another one's address is strange."""
    async with serve_facade(door, FacadeSettings(port=0, host="0.0.0.0")) as url:
        port = httpx.URL(url).port
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(("192.0.2.1", 9))  # nothing is sent: it only chooses the machine's own address
            except OSError:
                pytest.skip("this machine has no address besides loopback")
            own = probe.getsockname()[0]
        async with httpx.AsyncClient() as http:
            assert (await http.get(f"http://{own}:{port}/v1/models")).status_code == 200
            check_refusal(await http.get(f"{url}/v1/models", headers={"host": "192.0.2.7:8000"}), "Host")


async def test_names_of_the_setting_are_own_hosts(listing: httpx.AsyncClient) -> None:
    assert (await listing.get("/v1/models", headers={"host": "box.KIKI.lan:8000"})).status_code == 200
    check_refusal(await listing.get("/v1/models", headers={"host": "kiki.lan.evil.example"}), "Host")


async def test_without_the_setting_no_page_is_answered_before_it_asks(http: httpx.AsyncClient) -> None:
    check_refusal(await http.options(CHAT, headers={"origin": LISTED, **PREFLIGHT}), "Origin")
    plain = await http.options(CHAT)
    assert (plain.status_code, plain.headers["allow"]) == (204, "POST, OPTIONS")


@pytest.mark.parametrize("path", [CHAT, "/v1/models", "/v1/nothing", "/"])
async def test_a_page_of_the_list_is_answered_before_it_asks(listing: httpx.AsyncClient, path: str) -> None:
    reply = await listing.options(path, headers={"origin": LISTED, **PREFLIGHT})
    assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (200, LISTED)
    assert "POST" in reply.headers["access-control-allow-methods"]
    assert reply.headers["access-control-allow-headers"] == PREFLIGHT["access-control-request-headers"]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_page_of_the_list_asks_and_reads(listing: httpx.AsyncClient, script: Script, stream: bool) -> None:
    reply = await listing.post(CHAT, json=chat_body(stream=stream), headers={"origin": LISTED})
    assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (200, LISTED)
    assert {"*", "x-turn-id", "x-request-id", "x-kiki-level", "x-kiki-degraded"} <= set(
        reply.headers["access-control-expose-headers"].split(", ")
    )
    refusal = await listing.post(CHAT, json={}, headers={"origin": LISTED})
    assert (refusal.status_code, refusal.headers["access-control-allow-origin"]) == (400, LISTED)


async def test_a_page_that_is_not_listed_reads_nothing(listing: httpx.AsyncClient, keyed: httpx.AsyncClient) -> None:
    for http, status in ((listing, 403), (keyed, 200)):
        preflight = await http.options(CHAT, headers={"origin": FOREIGN, **PREFLIGHT})
        assert (preflight.status_code, preflight.json()["error"]["code"]) == (400, "cors_refused")
        reply = await http.get("/v1/models", headers={"origin": FOREIGN, "x-api-key": "k"})
        assert reply.status_code == status
        for answer in (preflight, reply):
            assert [name for name in answer.headers if name.startswith("access-control-")] == []


async def test_with_keys_hosts_and_origins_are_nobodys_business(keyed: httpx.AsyncClient, script: Script) -> None:
    headers = {"origin": FOREIGN, "host": "anything.example", "authorization": "Bearer k"}
    assert (await keyed.post(CHAT, json=chat_body(), headers=headers)).status_code == 200
    assert (await keyed.post(CHAT, json=chat_body(), headers={"origin": FOREIGN})).status_code == 401


async def test_all_origins_may_be_allowed(door: Bus) -> None:
    settings = FacadeSettings(port=0, cors_origins=("*",))
    async with serve_facade(door, settings) as url, httpx.AsyncClient(base_url=url) as http:
        reply = await http.get("/v1/models", headers={"origin": FOREIGN})
        assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (200, "*")
        check_refusal(await http.get("/v1/models", headers={"origin": FOREIGN, "host": "evil.example"}), "Host")


@pytest.mark.parametrize(
    ("settings", "param"),
    [
        ({"cors_origins": ("http://localhost:3000/",)}, "cors_origins"),
        ({"cors_origins": ("localhost:3000",)}, "cors_origins"),
        ({"cors_origins": ("https://*.example.com/x",)}, "cors_origins"),
        ({"allowed_hosts": ("kiki.lan:8000",)}, "allowed_hosts"),
        ({"allowed_hosts": ("http://kiki.lan",)}, "allowed_hosts"),
    ],
)
def test_a_setting_that_could_never_match_is_refused(settings: dict[str, tuple[str, ...]], param: str) -> None:
    with pytest.raises(SetupError) as refusal:
        FacadeSettings(port=0, **settings)  # type: ignore[arg-type]
    assert refusal.value.param == param
    FacadeSettings(cors_origins=("*", "null", "app://kiki"), allowed_hosts=("*", "::1", "10.0.0.5", "*.kiki.lan"))


def test_loopback_is_this_machine_alone() -> None:
    names = ["localhost", "a.localhost", "127.0.0.1", "::1", "", "evil", "10.0.0.1", "notlocalhost", "0x7f000001", "::"]
    assert [name for name in names if is_loopback(name)] == ["localhost", "a.localhost", "127.0.0.1", "::1"]
