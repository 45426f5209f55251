"""Requests that hypothesis makes up, in bytes: any JSON, any headers, framing that fits or not, broken bytes."""

import json
import re
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from tests.runtime.facade.conformance import DOCUMENT, look_up
from tests.runtime.facade.example_services import BODIES
from tests.runtime.facade.test_strange_bytes import HEADERS, STRANGE_BYTES, STRANGE_PATHS, STRANGE_VALUES

METHODS = ("GET", "POST", "POST", "POST", "HEAD", "DELETE", "OPTIONS", "PUT", "PATCH", "CONNECT", "TRACE", "BREW")
OPERATIONS = [(method.upper(), path) for path, item in DOCUMENT["paths"].items() for method in item]
FRAMINGS = ("length",) * 8 + ("chunked",) * 3 + ("short", "long", "none", "both", "twice", "huge", "negative")
CLIENT_SECONDS = 1
"""What the facade gives a client that does not go on."""


@dataclass(frozen=True)
class Generated:
    """A request as it is sent. ``is_whole``: nothing of it was broken, so that ``method`` and ``path`` are its own."""

    method: str
    path: str
    data: bytes
    is_whole: bool


class _Raw(str):
    """A value that stands in the JSON as it is."""


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**70), 2**70)
    | st.floats()
    | st.sampled_from((1e-40, 5e-324, -1e-40, 1e308, 2.0, -2.0, 0.0, -0.0))
    | st.text(max_size=20)
    | st.sampled_from(("nan", "inf", "1e-40", "-1", "0", "true", "", "auto", "none", "user", "text"))
    | st.sampled_from(STRANGE_VALUES).map(_Raw)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def encode(value: Any) -> bytes:
    """JSON as lenient writers emit it: with NaN and infinities, and with what is no Unicode."""
    if isinstance(value, _Raw):
        return value.encode()
    if isinstance(value, dict):
        fields = (json.dumps(name).encode() + b":" + encode(item) for name, item in value.items())
        return b"{" + b",".join(fields) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(map(encode, value)) + b"]"
    return json.dumps(value).encode()


@st.composite
def bodies(draw: st.DrawFn, path: str) -> bytes:
    """A body that is served with a few fields of any value, or any JSON, or any bytes."""
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return draw(st.binary(max_size=200))
    if kind == 1 or path not in BODIES:
        return encode(draw(values))
    schema = DOCUMENT["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    names = st.sampled_from(sorted(look_up(schema)["properties"]))
    return encode(BODIES[path] | draw(st.dictionaries(names, values, max_size=3)))


@st.composite
def targets(draw: st.DrawFn) -> tuple[str, bytes]:
    """A method and a target: of an operation with ids of any text, or any."""
    method, path = draw(st.sampled_from(OPERATIONS))
    kind = draw(st.integers(0, 9))
    if kind == 0:
        return draw(st.sampled_from(METHODS)), draw(st.sampled_from(STRANGE_PATHS))
    if kind == 1:
        return draw(st.sampled_from(METHODS)), b"/" + draw(st.binary(max_size=40)).replace(b" ", b"")
    names = st.text("abz019-_.%*~\x7f ", max_size=12) | st.just("micro-kiki")
    target = re.sub(r"\{\w+\}", lambda _: draw(names).replace(" ", "%20"), path)
    if method == "GET" and draw(st.booleans()):
        target += "?" + draw(st.text("abcdefilmnoqrstuy_=&%019+-", max_size=40))
    return method, target.encode()


@st.composite
def requests(draw: st.DrawFn) -> Generated:
    """A request."""
    method, target = draw(targets())
    path = target.decode("latin-1").partition("?")[0]
    body = draw(bodies(path)) if method != "GET" or draw(st.booleans()) else b""
    head = [method.encode() + b" " + target + b" HTTP/1.1", b"Host: 127.0.0.1", b"Connection: close"]
    if draw(st.booleans()):
        head.append(b"Authorization: Bearer secret")
    strange = st.tuples(st.sampled_from(HEADERS), st.sampled_from(STRANGE_BYTES) | st.binary(max_size=30))
    head += [name + b": " + value for name, value in draw(st.lists(strange, max_size=2))]
    framing = draw(st.sampled_from(FRAMINGS))
    head += frame(framing, len(body))
    if framing in ("chunked", "both"):
        body = (b"%x\r\n%s\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
    data = b"\r\n".join([*head, b"", body])
    if draw(st.integers(0, 5)):
        is_clean = framing in ("length", "chunked") and not re.search(rb"[^\x21-\x7e]", target)
        return Generated(method, path, data, is_whole=is_clean)
    at = draw(st.integers(0, len(data)))
    broken = (
        data[:at]
        + draw(st.binary(max_size=4) | st.sampled_from((b"\r", b"\n", b"\r\n\r\n", b"\x00")))
        + data[at + draw(st.integers(0, 4)) :]
    )
    return Generated(method, path, broken or b"\r\n", is_whole=False)


def frame(framing: str, length: int) -> list[bytes]:
    """The headers that say how long a body is, or what they say in its place."""
    right, chunked = b"Content-Length: %d" % length, b"Transfer-Encoding: chunked"
    lines: dict[str, list[bytes]] = {
        "length": [right],
        "chunked": [chunked],
        "short": [b"Content-Length: %d" % (length // 2)],
        "long": [b"Content-Length: %d" % (length + 7)],
        "none": [],
        "both": [right, chunked],
        "twice": [right, right],
        "huge": [b"Content-Length: %d" % 10**15],
        "negative": [b"Content-Length: -%d" % length],
    }
    return lines[framing]
