"""A request's body: JSON, counted and timed while it is read."""

import contextlib
import re
from collections.abc import AsyncIterator

import anyio
from fastapi import Request
from starlette.requests import ClientDisconnect

from runtime.facade.dependencies import Facade
from runtime.facade.errors import ClientGone, HttpRefusal
from runtime.limits import PLAIN_BODY, derive_limits, limit_body
from schemas.errors import InvalidInput

DRAIN_FACTOR = 4
"""A body over the limit is read, up to this many limits, and dropped, so that its sender can read the refusal."""

DRAIN_SECONDS = 1.0
"""Seconds for which it is read and dropped."""

_JSON = re.compile(r"application/json|application/[\w.+-]+\+json|text/json")


async def read_body(request: Request, parts: Facade) -> bytes:
    """The whole body.

    Raises:
        HttpRefusal: the body is compressed, or of another type than JSON (415).
        InvalidInput: the body is over the limit (413), or did not come within ``body_timeout`` (408).
        ClientGone: the client left before it had sent the body.
    """
    _require_plain_json(request)
    settings = parts.settings
    try:
        async with contextlib.aclosing(request.stream()) as chunks:
            with anyio.fail_after(settings.body_timeout):
                return await _read_within_limit(chunks, request, parts)
    except TimeoutError as error:
        raise InvalidInput(
            f"the body did not come within {settings.body_timeout:g} s: send it faster.", code="request_timeout"
        ) from error
    except ClientDisconnect as error:
        raise ClientGone("the client left while it was sending its request.") from error


def _require_plain_json(request: Request) -> None:
    """Refuse what is not declared as JSON: a page may send other types to any server without asking it first.

    A body without a type is read: scripts leave it out, and a page that does so is known by its origin.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind and not _JSON.fullmatch(kind):
        raise HttpRefusal(
            f"the body is {kind[:100]}: send JSON, with the header 'Content-Type: application/json'.",
            status=415,
            code="unsupported_media_type",
            param="Content-Type",
        )
    encoding = request.headers.get("content-encoding", "").strip().lower()
    if encoding not in ("", "identity"):
        raise HttpRefusal(
            f"the body is compressed ({encoding[:100]}): send it plain, without Content-Encoding.",
            status=415,
            code="unsupported_media_type",
            param="Content-Encoding",
            headers={"accept-encoding": "identity"},
        )


async def _read_within_limit(chunks: AsyncIterator[bytes], request: Request, parts: Facade) -> bytes:
    """The body. The model's context is asked for only where a body is longer than one that any model takes."""
    header = request.headers.get("content-length", "")
    content_length = int(header) if header.isdecimal() else 0
    limit = parts.settings.body_limit or PLAIN_BODY
    if content_length > limit:
        limit = await _find_limit(parts)
    body = bytearray()
    if content_length <= limit:
        async for chunk in chunks:
            body += chunk
            if len(body) > limit and len(body) > (limit := await _find_limit(parts)):
                break
        else:
            return bytes(body)
    await _drain(chunks, DRAIN_FACTOR * limit)
    raise InvalidInput(
        f"the body is over {limit} bytes, which follow the model's context: shorten the conversation; 'kiki doctor' "
        "says which limit is smaller than the context.",
        code="body_too_large",
    )


async def _find_limit(parts: Facade) -> int:
    limits = derive_limits(await parts.abilities.read_context_tokens())
    return limit_body(limits, body_limit=parts.settings.body_limit, max_payload=parts.bus.max_payload)


async def _drain(chunks: AsyncIterator[bytes], remaining: int) -> None:
    """Read and drop ``remaining`` bytes at most.

    Closing a connection with unread bytes resets it, and the client never sees the refusal.
    """
    with anyio.move_on_after(DRAIN_SECONDS):
        async for chunk in chunks:
            remaining -= len(chunk)
            if remaining < 0:
                return
