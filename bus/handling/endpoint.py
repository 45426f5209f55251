"""The requests that an agent answers, as a NATS micro service that the stock ``nats`` command line discovers.

Needs nats-py and :mod:`schemas` only.
"""

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from nats.aio.client import Client
from nats.micro.request import Request
from nats.micro.service import EndpointConfig, Service, ServiceConfig

from bus.subjects import Subjects
from schemas.codec import decode, encode
from schemas.errors import KikiError
from schemas.status import ServiceError

VERSION = "0.1.0"

REQUESTS_AT_ONCE = 32
"""Requests that one agent answers at the same time; further ones wait in the subscription."""


@dataclass(frozen=True, kw_only=True)
class Endpoint:
    """A request that the agent answers at ``<prefix>.svc.<verb>``."""

    verb: str
    request: type[Any]
    handle: Callable[[Any], Awaitable[msgspec.Struct]]

    async def answer(self, data: bytes) -> msgspec.Struct:
        """The reply to the request that ``data`` holds.

        Raises:
            InvalidEvent: the data is no such request.
        """
        return await self.handle(None if self.request is type(None) else decode(self.request, data))


def make_service(client: Client, subjects: Subjects, *, agent: str, description: str) -> Service:
    """The micro service of an agent, which is still to be started."""
    return Service(
        client,
        ServiceConfig(
            name=f"kiki-{agent}",
            version=VERSION,
            description=description,
            metadata={"pid": str(os.getpid()), "prefix": subjects.prefix},
        ),
    )


async def add_endpoint(
    service: Service, subjects: Subjects, endpoint: Endpoint, accept: Callable[[Request], Awaitable[None]]
) -> None:
    """Have the service pass the endpoint's requests to ``accept``."""
    await service.add_endpoint(
        EndpointConfig(
            name=endpoint.verb.replace(".", "-"),
            subject=subjects.service(endpoint.verb),
            handler=accept,
            metadata={"request": endpoint.request.__name__},
        )
    )


def is_answerable(reply: str, prefix: str) -> bool:
    """Whether an answer may go to ``reply``: an agent must not publish on the runtime's or the broker's own subjects
    what somebody asks it to, who may not do so themselves."""
    root = reply.split(".", 1)[0]
    return bool(reply) and root != prefix and not root.startswith("$")


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
