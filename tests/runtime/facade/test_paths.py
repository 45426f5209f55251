"""Each route under each spelling of its path, HEAD and OPTIONS at each, and refusals with what is allowed."""

from typing import Any

import httpx
import pytest
from fastapi.routing import APIRoute

from runtime.facade.app import ROUTES
from tests.runtime.facade.scripted import Script, chat_body

pytestmark = pytest.mark.anyio

PATHS = {each.path for module in ROUTES for each in module.router.routes if isinstance(each, APIRoute)}


def spellings(path: str) -> list[str]:
    """A path and what else stands for it."""
    bare = path.removeprefix("/v1")
    return list(dict.fromkeys([path, f"{path}/", f"{path}//", f"/{path}", bare, f"{bare}/"]))


@pytest.mark.parametrize("path", spellings("/v1/chat/completions"))
async def test_a_turn_is_answered_under_each_spelling(http: httpx.AsyncClient, script: Script, path: str) -> None:
    url = f"{str(http.base_url).rstrip('/')}{path}"
    reply = await http.post(url, json=chat_body())
    assert (reply.status_code, reply.json()["object"]) == (200, "chat.completion")


@pytest.mark.parametrize("path", sorted({path for path in PATHS if "{" not in path} - {"/v1/sessions"}))
async def test_each_route_is_there_under_each_spelling(http: httpx.AsyncClient, path: str) -> None:
    base = str(http.base_url).rstrip("/")
    replies = [await http.options(base + spelling) for spelling in spellings(path)]
    assert {reply.status_code for reply in replies} == {204}
    assert len({reply.headers["allow"] for reply in replies}) == 1


@pytest.mark.parametrize("path", ["/v1/models", "/models/", "/v1/models/micro-kiki", "/health", "/health/", "/metrics"])
async def test_head_is_served_where_get_is(http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    monkeypatch.setattr("bus.request.PATIENCE_SECONDS", 0.25)  # no agent is there to answer
    head, get = await http.head(path), await http.get(path)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-type"] == get.headers["content-type"]
    assert (await http.get(path)).status_code == 200, "the connection goes on"


async def test_a_head_of_what_is_not_there_has_no_body_either(http: httpx.AsyncClient) -> None:
    reply = await http.head("/v1/turns/nothing")
    assert (reply.status_code, reply.content) == (404, b"")


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", "/v1/chat/completions", "POST, OPTIONS"),
        ("HEAD", "/v1/chat/completions", "POST, OPTIONS"),
        ("PUT", "/chat/completions/", "POST, OPTIONS"),
        ("POST", "/v1/models", "GET, HEAD, OPTIONS"),
        ("POST", "/v1/sessions/s-1", "GET, DELETE, HEAD, OPTIONS"),
        ("BREW", "/health", "GET, HEAD, OPTIONS"),
    ],
)
async def test_another_method_is_told_which_are_served(
    http: httpx.AsyncClient, method: str, path: str, allow: str
) -> None:
    reply = await http.request(method, path)
    assert (reply.status_code, reply.headers["allow"]) == (405, allow)
    if method != "HEAD":
        error = reply.json()["error"]
        assert (error["code"], error["type"], error["param"]) == ("method_not_allowed", "invalid_request_error", None)
        assert allow in error["message"]


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/", "/v1/nothing", "/nothing/at/all", "/v2/models", "/v1/health"])
async def test_where_nothing_is_a_404_says_so(http: httpx.AsyncClient, path: str) -> None:
    for method in ("GET", "POST", "OPTIONS"):
        reply = await http.request(method, path)
        error = reply.json()["error"]
        assert (reply.status_code, error["code"], error["param"]) == (404, "not_found", None)


@pytest.mark.parametrize(
    "path", ["/health%0A", "/v1/models%0A", "/v1/models/%0A", "/v1/sessions/s%0A", "/v1/sessions%0A"]
)
async def test_a_line_end_is_a_part_of_the_path(http: httpx.AsyncClient, path: str) -> None:
    """What is forgotten at ``s%0A`` is not the session ``s``."""
    for method in ("GET", "DELETE"):
        reply = await http.request(method, path)
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")


async def test_an_id_may_end_in_a_slash(http: httpx.AsyncClient) -> None:
    """A path is taken as it is where a route has it: nobody forgets all of a user for a slash behind nothing."""
    reply = await http.delete("/v1/sessions/")
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "session_id")


async def test_a_long_path_is_not_repeated(http: httpx.AsyncClient) -> None:
    reply = await http.get("/v1/" + "a" * 4000)
    assert (reply.status_code, len(reply.json()["error"]["message"]) < 300) == (404, True)


async def test_metrics_name_the_route_of_each_spelling(http: httpx.AsyncClient) -> None:
    def count(text: str, route_path: str) -> float:
        wanted = (f'route="{route_path}"', "kiki_http_requests_total", 'status="200"')
        return sum(float(line.split()[-1]) for line in text.splitlines() if all(part in line for part in wanted))

    before: Any = (await http.get("/metrics")).text
    await http.get("/models")
    await http.head(f"{http.base_url}/v1/models")
    assert count((await http.get("/metrics")).text, "/v1/models") == count(before, "/v1/models") + 2
