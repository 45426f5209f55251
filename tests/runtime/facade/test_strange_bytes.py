"""Bodies, headers and paths that no document has: unicode and what is none, nulls, huge numbers, deep nesting."""

import itertools

import anyio
import httpx
import msgspec
import pytest

from runtime.facade import FacadeSettings
from runtime.facade.errors import RETRYABLE
from tests.runtime.facade.conformance import DOCUMENT, check_reply, look_up
from tests.runtime.facade.example_services import BODIES
from tests.runtime.facade.plain_socket import exchange
from tests.runtime.facade.scripted import Script, chat_body

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(400)]

SECONDS = 20.0
"""No reply may take longer."""

JSON = {"content-type": "application/json"}
DEEP = 100_000
"""Brackets within brackets."""

BAD_BODIES = (
    *(b"", b"[]", b"null", b"1e999", b"{", b"\xef\xbb\xbf", b'{"model": "\xff\xfe"}', b'{"temperature": NaN}'),
    *(b"[" * DEEP, b'{"a":' * DEEP, b'{"metadata":' + b"[" * DEEP + b"]" * DEEP + b"}"),
    msgspec.json.encode(chat_body()).decode().encode("utf-16"),
)

BAD_TYPES = (b"text/plain", b"multipart/form-data; boundary=x", b"application/x-www-form-urlencoded", b"\xff")

STRANGE_VALUES = (
    *("1e308", "1e999", "9" * 400, "-" + "9" * 400, "4.5", "-1", "null", "true", "[]"),
    *('""', r'"\u0000"', r'"\ud800"', '"\U0010ffff"', "[null]", '{"": null}'),
    *("[" * 400 + "]" * 400, '{"type":' * 400 + "1" + "}" * 400),
)

STRANGE_BYTES = (
    *(b"\xff\xfe", b"\xc3\xa9", b"\xed\xa0\x80", b"", b'"', b"%00", b"*", b"a b", b"\t"),
    *(b"a" * 5000, b"\x80" * 300),
)

HEADERS = (
    *(b"Authorization", b"X-Api-Key", b"api-key", b"Idempotency-Key", b"X-Session-Id", b"X-User-Id"),
    *(b"X-OpenWebUI-User-Id", b"X-Request-Id", b"traceparent", b"tracestate", b"baggage", b"Content-Type"),
    *(b"Content-Encoding", b"Accept", b"Origin", b"Cookie", b"Expect", b"Upgrade", b"Forwarded", b"anthropic-version"),
)

STRANGE_PATHS = (
    *(b"//", b"/v1", b"/%2f", b"/\xff\xfe", b"/ready#%ff", b"/health?%ff=%fe", b"/status?&&&=&", b"/v1/adapters?%00"),
    *(b"/v1/models/" + name for name in (b"\xff", b"%ff%fe", b"%00", b"%ed%a0%80", b"%0a", b"/", b"a" * 9000)),
    *(b"/v1/sessions/" + name for name in (b"\xff", b"%ff", b"%00", b"%0a", b"*", b"a" * 9000)),
    *(b"/v1/turns/" + name for name in (b"%ff", b"%00", b"*", b"a.b.%3e", b"..", b"a" * 9000)),
    *(b"/v1/adapters/" + name for name in (b"%2e%2e/load", b"%ff/load", b"%00/load", b"a/%ff", b"a/../../b/load")),
    *(b"/v1/episodes?query" + rest for rest in (b"", b"=%00&user=a", b"=%ff%fe&user=a", b"=a&user=%ff")),
    *(
        b"/v1/episodes?user=a&query=a&limit=" + limit
        for limit in (b"1e9", b"9" * 5000, b"-1", b"", b"%ff", b"1&limit=x")
    ),
    *(b"/v1/episodes?user=a&query=a&as_of=" + when for when in (b"%00", b"9" * 10, b"0001-01-01", b"1e400", b"%ff")),
    *(b"/v1/episodes?user=a&query=a&session_id=" + name for name in (b"", b"%00", b"%ff", b"a" * 5000)),
)

REFUSED_BY_PARSER = {400: "malformed_request", 414: "uri_too_long", 431: "headers_too_large"}
"""What is no request at all."""


@pytest.fixture(scope="module")
def settings() -> FacadeSettings:
    return FacadeSettings(port=0, admin_key="secret", turn_timeout=5.0, expected_agents=("embedder",))


@pytest.fixture(autouse=True)
def _short_drain(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is refused here is sent at once: there is no more to wait for."""
    monkeypatch.setattr("runtime.facade.protocol.DRAIN_SECONDS", 0.1)


@pytest.mark.parametrize("path", BODIES)
async def test_a_bad_body_is_refused(
    http: httpx.AsyncClient, script: Script, example_services: None, path: str
) -> None:
    for body in BAD_BODIES:
        reply = await http.post(path, content=body, headers=JSON)
        assert 400 <= reply.status_code < 500, body[:80]
    for kind in BAD_TYPES:
        reply = await http.post(path, content=msgspec.json.encode(BODIES[path]), headers={b"content-type": kind})
        assert reply.status_code == 415, kind
    assert (await http.post(path, json=BODIES[path])).status_code == 200


@pytest.mark.parametrize("path", BODIES)
async def test_strange_values_of_every_field(
    http: httpx.AsyncClient, script: Script, example_services: None, path: str
) -> None:
    content = DOCUMENT["paths"][path]["post"]["requestBody"]["content"]["application/json"]
    for field, value in itertools.product(look_up(content["schema"])["properties"], STRANGE_VALUES):
        body = msgspec.json.encode(BODIES[path] | {field: msgspec.Raw(value.encode())})
        reply = await http.post(path, content=body, headers=JSON)
        assert reply.status_code < 500 or reply.status_code in RETRYABLE, (field, value[:80], reply.text)


async def test_strange_bytes_in_every_header(http: httpx.AsyncClient, script: Script, example_services: None) -> None:
    body, path = msgspec.json.encode(chat_body()), "/v1/chat/completions"
    for header, value, scheme in itertools.product(HEADERS, STRANGE_BYTES, (b"", b"Bearer ")):
        lines = [f"POST {path} HTTP/1.1".encode(), b"Host: 127.0.0.1", b"Connection: close"]
        lines += [b"Content-Length: %d" % len(body), header + b": " + scheme + value, b"", body]
        await send_bytes(http, "POST", path, b"\r\n".join(lines))


@pytest.mark.parametrize("method", ["GET", "HEAD", "DELETE", "POST", "OPTIONS", "PUT", "BREW"])
async def test_strange_bytes_in_a_path(
    http: httpx.AsyncClient, script: Script, example_services: None, method: str
) -> None:
    for path in STRANGE_PATHS:
        head = method.encode() + b" " + path + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        await send_bytes(http, method, path.decode("latin-1"), head + b"Authorization: Bearer secret\r\n\r\n")


async def send_bytes(http: httpx.AsyncClient, method: str, path: str, request: bytes) -> None:
    """Send a request and check the reply."""
    with anyio.fail_after(SECONDS):
        status, headers, body = await exchange(http, request)
    if "x-request-id" not in headers:
        assert msgspec.json.decode(body)["error"]["code"] == REFUSED_BY_PARSER[status], request[:200]
        return
    check_reply(method, path.partition("?")[0], status, headers, body)
    assert status < 500 or status in RETRYABLE, (request[:200], body)
