"""Requests to an agent of the same process: a call instead of a message to the broker and back.

Such a call behaves as a message does. The agent decodes the same bytes and works in a task of its own, under the same
bound, so that a caller that is cancelled does not cancel the work; a refusal has the same code, field and text. Only
the reply is passed on without encoding it.
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import anyio
import msgspec

from bus.request import encode_request, no_answer
from schemas.calls import Service
from schemas.codec import decode, encode

Q = TypeVar("Q", bound=msgspec.Struct | None)
R = TypeVar("R", bound=msgspec.Struct)

Accept = Callable[[bytes], "asyncio.Future[msgspec.Struct]"]
"""Starts to answer an encoded request; the future gets the reply or a :class:`~schemas.errors.KikiError`."""


class LocalEndpoints:
    """The endpoints that agents of this process serve on one bus, by verb."""

    def __init__(self) -> None:
        self._accepts: dict[str, list[Accept]] = {}

    @contextmanager
    def serve(self, service: Service[Any, Any], accept: Accept) -> Iterator[None]:
        """Answer requests to ``service`` with ``accept`` in this context; the newest of several agents answers."""
        accepts = self._accepts.setdefault(service.verb, [])
        accepts.append(accept)
        try:
            yield
        finally:
            accepts.remove(accept)

    def __contains__(self, service: Service[Any, Any]) -> bool:
        return bool(self._accepts.get(service.verb))

    async def request(self, service: Service[Q, R], body: Q, *, timeout: float) -> R:
        """The reply of the agent that serves ``service``; check first that one does (``service in endpoints``).

        Raises:
            Unavailable: the agent did not answer within ``timeout`` seconds, or it stopped meanwhile.
            KikiError: the agent's refusal.
        """
        with anyio.move_on_after(timeout):
            outcome = await self._accepts[service.verb][-1](encode_request(body))
            return outcome if isinstance(outcome, service.reply) else decode(service.reply, encode(outcome))
        raise no_answer(service.verb, "TimeoutError")
