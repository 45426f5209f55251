"""Compares replies with the OpenAPI document: their statuses, headers, types and bodies."""

import json
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import httpx
from jsonschema import Draft202012Validator

from runtime.facade.errors import RETRYABLE, speaks_anthropic
from runtime.facade.paths import PREFIX

GOLDEN = Path(__file__).parents[3] / "docs" / "openapi.json"
DOCUMENT: dict[str, Any] = json.loads(GOLDEN.read_bytes())
NOT_ROUTED = (400, 403, 404, 405)
"""What is refused without a route: no HTTP, a strange host, a strange path or method."""


def look_up(part: dict[str, Any]) -> dict[str, Any]:
    """A part of the document, or what it refers to."""
    place: Any = DOCUMENT
    for key in part["$ref"].removeprefix("#/").split("/") if "$ref" in part else ():
        place = place[key]
    return place if "$ref" in part else part


@cache
def patterns() -> list[tuple[re.Pattern[str], dict[str, Any]]]:
    """The paths; those that say more come first, the longer ones of those that say as much."""
    return [
        (re.compile(re.sub(r"\{\w+\}", "(.+)", path)), item)
        for path, item in sorted(DOCUMENT["paths"].items(), key=lambda entry: (entry[0].count("{"), -len(entry[0])))
    ]


def find_operation(method: str, path: str) -> dict[str, Any] | None:
    """What the document says of a request; None: nothing."""
    bare = "/" + path.strip("/")
    for spelling in (path, bare, PREFIX + path, PREFIX + bare):
        for pattern, item in patterns():
            if pattern.fullmatch(spelling):
                operation: dict[str, Any] | None = item.get(method.lower())
                return operation
    return None


@cache
def validator(name: str) -> Draft202012Validator:
    """Checks bodies against one of the document's schemas."""
    return Draft202012Validator({"$ref": f"#/components/schemas/{name}", "components": DOCUMENT["components"]})


def check_reply(method: str, path: str, status: int, headers: Mapping[str, str], body: bytes) -> None:
    """Raise AssertionError where a reply is not what the document says."""
    where = f"{method} {path}: {status} {body[:300]!r}"
    operation = find_operation(method, path)
    if status == 204 and method == "OPTIONS":
        return
    shape = "anthropic" if speaks_anthropic(path) else "openai"
    if operation is None:
        assert status in NOT_ROUTED, f"the document has no such path or method: {where}"
        reply = look_up({"$ref": f"#/components/responses/{shape}-400"})
    else:
        assert str(status) in operation["responses"], f"the document has no such reply: {where}"
        reply = look_up(operation["responses"][str(status)])
    contents = reply.get("content", {})
    assert ("retry-after" in headers) == (status in RETRYABLE), where
    assert "x-request-id" in headers, where
    if method == "HEAD":
        assert not body, where
        return
    kind = headers.get("content-type", "").partition(";")[0]
    assert kind in contents, f"{kind} is no type of {where}"
    if kind == "application/json":
        _check_body(contents[kind]["schema"], json.loads(body), where)
    for line in body.splitlines() if kind == "text/event-stream" else ():
        if line.startswith(b"data: ") and line != b"data: [DONE]":
            json.loads(line.removeprefix(b"data: "))


def _check_body(schema: dict[str, Any], value: Any, where: str) -> None:
    options = schema.get("anyOf", [schema])
    if "$ref" not in options[0]:
        return
    faults = [list(validator(option["$ref"].rsplit("/", 1)[-1]).iter_errors(value)) for option in options]
    assert not all(faults), f"{faults[0][0].json_path} {faults[0][0].message}: {where}"


async def check_response(reply: httpx.Response) -> None:
    """:func:`check_reply` as a hook of a client's. The events of a stream are not read."""
    is_stream = reply.headers.get("content-type", "").startswith("text/event-stream")
    body = b"" if is_stream else await reply.aread()
    check_reply(reply.request.method, reply.request.url.path, reply.status_code, reply.headers, body)
