"""The requests that an agent answers, as a NATS micro service that the stock ``nats`` command line discovers.

Needs nats-py and :mod:`schemas` only.
"""

import os
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from nats.aio.client import Client
from nats.micro.request import Request
from nats.micro.service import EndpointConfig, ServiceConfig
from nats.micro.service import Service as MicroService

from bus.subjects import Subjects
from schemas.calls import Service
from schemas.codec import decode, encode
from schemas.errors import KikiError
from schemas.status import ServiceError

Q = TypeVar("Q", bound=msgspec.Struct | None)
A = TypeVar("A", bound=msgspec.Struct)

VERSION = "0.1.0"

REQUESTS_AT_ONCE = 32
"""Requests that one agent answers at the same time; further ones wait in the subscription."""


class Endpoint:
    """A request that the agent answers, and the function that does: from the request's struct to the reply's."""

    def __init__(self, service: Service[Q, A], handle: Callable[[Q], Awaitable[A]]) -> None:
        self.service: Service[Any, Any] = service
        self.handle: Callable[[Any], Awaitable[Any]] = handle

    @property
    def verb(self) -> str:
        """The request's verb."""
        return self.service.verb

    async def answer(self, data: bytes) -> msgspec.Struct:
        """The reply to the request that ``data`` holds.

        Raises:
            InvalidEvent: the data is no such request.
        """
        kind = self.service.request
        reply: msgspec.Struct = await self.handle(None if kind is type(None) else decode(kind, data))
        return reply


def make_service(client: Client, subjects: Subjects, *, agent: str, description: str) -> MicroService:
    """The micro service of an agent, which is still to be started."""
    return MicroService(
        client,
        ServiceConfig(
            name=f"kiki-{agent}",
            version=VERSION,
            description=description,
            metadata={"pid": str(os.getpid()), "prefix": subjects.prefix},
        ),
    )


async def add_endpoint(
    service: MicroService, subjects: Subjects, endpoint: Endpoint, accept: Callable[[Request], Awaitable[None]]
) -> None:
    """Have the service pass the endpoint's requests to ``accept``."""
    await service.add_endpoint(
        EndpointConfig(
            name=endpoint.verb.replace(".", "-"),
            subject=subjects.service(endpoint.verb),
            handler=accept,
            metadata={"request": endpoint.service.request.__name__},
        )
    )


def is_answerable(reply: str, subjects: Subjects) -> bool:
    """Whether an answer may go to ``reply``: an agent must not publish on the runtime's or the broker's own subjects
    what somebody asks it to, who may not do so themselves."""
    return bool(reply) and not subjects.owns(reply) and not reply.startswith("$")


def reply_subject(request: Request) -> str:
    """Where the answer goes; nats-py shows it nowhere else."""
    return str(request._msg.reply)


def encode_reply(verb: str, reply: msgspec.Struct, limit: int) -> bytes:
    """The reply as it is sent; ``limit`` is how many bytes the broker takes.

    Raises:
        KikiError: it is larger, or not what its type says.
    """
    data = encode(reply)
    if len(data) > limit:
        raise KikiError(f"the reply to {verb} has {len(data)} bytes, more than the broker takes.")
    return data


async def send_refusal(request: Request, error: KikiError) -> None:
    """Answer a request with an error."""
    body = ServiceError(code=error.code, message=error.message, param=error.param, retryable=error.retryable)
    description = " ".join(error.message[:200].split())  # a header is one line
    await request.respond_error(code=str(error.status), description=description, data=encode(body))


def fault_of(verb: str) -> KikiError:
    """What a caller is told of a fault that the agent did not expect; the agent's log has the rest."""
    return KikiError(f"{verb} failed; the agent's log says why.")
