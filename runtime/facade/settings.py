"""The facade's settings: where it listens, whom it lets in, and its limits."""

import re
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from bus.storage.disk import RESERVE
from runtime.agents import turn_agents
from schemas.chat import MAX_TOKENS
from schemas.envelope import TENANT_PATTERN
from schemas.errors import SetupError
from schemas.upcast import KEYLESS_TENANT

ORIGIN_PATTERN = r"\*|null|[a-z][a-z0-9+.-]*://[^\s/?#@A-Z]+"
HOST_PATTERN = r"[A-Za-z0-9*._-]+|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*"
"""A name, a pattern of names, or an address of either version."""


class FacadeSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the HTTP facade.

    Attributes:
        host: address to listen on; loopback unless the operator opens it.
        port: 0 takes a free one.
        cors_origins: origins of pages elsewhere that may ask and read, as "https://chat.example.com"; "*" is all.
        allowed_hosts: names under which this server is reached, besides loopback and its own address; patterns as
            "*.example.com". Checked without API keys only.
        models: other names for models, each with the id of the model that answers to it ("gpt-4o" = "micro-kiki").
        default_model: the model of a request that names none.
        body_limit: bytes of a request body, counted while it is read; None follows the model's context.
        header_timeout: seconds that a client has for the head of a request, from its connection or the head's first
            byte.
        body_timeout: seconds that a client has for sending its whole body.
        reply_timeout: seconds for which a client may leave its reply unread.
        idle_timeout: seconds of silence between two requests after which their connection is closed.
        max_connections: connections at once; one more takes the place of the one that has been idle the longest, and
            is a 503 where none is idle.
        api_keys: bearer key to tenant. Empty: no key is asked for, everybody is ``default_tenant``.
        default_tenant: the tenant of every request when there are no keys.
        one_memory: requests that name no user are those of the machine's person, so that all conversations share one
            memory; only without keys.
        admin_key: bearer key for ``/metrics``, ``/status`` and ``/v1/adapters``; None leaves the first two open and
            closes the third.
        max_in_flight: turns of one tenant alone that this facade follows at once; one more is a 429. Of several tenants
            each has fewer, and all together a third more (:mod:`bus.tenants.shares`).
        max_queue: turns that may wait at ``queue_consumer``; more is a 503.
        queue_consumer: durable consumer of TURNS whose backlog is the queue.
        queue_age: seconds for which a reading of the backlog is used before it is read again.
        retry_after: seconds that the ``Retry-After`` header of a refusal says.
        turn_timeout: seconds that a turn may take; a long prompt has more (:mod:`runtime.limits`).
        default_max_tokens: length of an answer when neither request nor alias names one.
        max_tokens_cap: tokens of an answer at most; a request that asks for more gets so many. None follows the model's
            context, at whose end the worker ends an answer, too.
        poll_seconds: seconds of silence after which TURNS is read, in case a message was missed.
        broker_grace: seconds that the broker may be away before the turn is given up as lost.
        keepalive_seconds: seconds of silence after which a stream gets a comment, so that proxies keep it open.
        accept_seconds: seconds after which a stream begins though the worker has not accepted the turn; a refusal is an
            event of the stream then.
        strict_fields: whether a field that nobody knows is refused; else it is passed over and counted.
        missing_adapter: what a model id gets that names one adapter which is not there: "base" answers without it and
            says so in a header, "refuse" answers 404.
        drain_seconds: seconds that running turns have for ending once the facade is told to stop.
        route_timeout: seconds that the router has for ``/v1/route``.
        count_timeout: seconds that the worker has for counting the tokens of a prompt.
        memory_timeout: seconds that the memory has for a search or a session.
        embed_timeout: seconds that the embedder has for one part of a request to ``/v1/embeddings``.
        forget_timeout: seconds that the memory has for forgetting a session.
        expected_agents: the agents that ``/ready`` waits for, and that have more time to report.
        external_agents: those of them that run elsewhere; one that reports nothing counts while it reads its stage.
        monitor_url: the monitoring address of a broker that is not embedded, for ``/health`` and ``/ready``.
        broker_dir: where the embedded broker stores; None where the broker is somebody else's.
        disk_reserve: bytes of that disk that stay free; of a small disk at most a tenth. Below, turns are refused.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8000
    cors_origins: tuple[str, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    models: dict[str, str] = {}
    default_model: str = "micro-kiki"
    body_limit: Annotated[int, Meta(ge=1)] | None = None
    header_timeout: Annotated[float, Meta(gt=0, le=86400)] = 10.0
    body_timeout: Annotated[float, Meta(gt=0)] = 10.0
    reply_timeout: Annotated[float, Meta(gt=0, le=86400)] = 60.0
    idle_timeout: Annotated[int, Meta(ge=1, le=86400)] = 60
    max_connections: Annotated[int, Meta(ge=1)] = 512
    api_keys: dict[str, str] = {}
    default_tenant: str = KEYLESS_TENANT
    one_memory: bool = False
    admin_key: str | None = None
    max_in_flight: Annotated[int, Meta(ge=1)] = 64
    max_queue: Annotated[int, Meta(ge=1)] = 256
    queue_consumer: str = "inference"
    queue_age: float = 0.5
    retry_after: Annotated[int, Meta(ge=1)] = 1
    turn_timeout: Annotated[float, Meta(gt=0)] = 120.0
    default_max_tokens: Annotated[int, Meta(ge=1)] = 256
    max_tokens_cap: Annotated[int, Meta(ge=1, le=MAX_TOKENS)] | None = None
    poll_seconds: Annotated[float, Meta(gt=0)] = 2.0
    broker_grace: float = 3.0
    keepalive_seconds: Annotated[float, Meta(gt=0)] = 5.0
    accept_seconds: Annotated[float, Meta(gt=0)] = 20.0
    strict_fields: bool = False
    missing_adapter: Literal["base", "refuse"] = "base"
    drain_seconds: float = 0.5
    route_timeout: Annotated[float, Meta(gt=0, le=86400)] = 2.0
    count_timeout: Annotated[float, Meta(gt=0, le=86400)] = 10.0
    memory_timeout: Annotated[float, Meta(gt=0, le=86400)] = 5.0
    embed_timeout: Annotated[float, Meta(gt=0, le=86400)] = 60.0
    forget_timeout: Annotated[float, Meta(gt=0, le=86400)] = 60.0
    expected_agents: tuple[str, ...] = field(default_factory=turn_agents)
    external_agents: tuple[str, ...] = ()
    monitor_url: str | None = None
    broker_dir: Path | None = None
    disk_reserve: Annotated[int, Meta(ge=0)] = RESERVE

    def __post_init__(self) -> None:
        for tenant in (self.default_tenant, *self.api_keys.values()):
            if not re.fullmatch(TENANT_PATTERN, tenant):
                raise SetupError(
                    f"the tenant {tenant!r} is not a name: use letters, digits and _ . @ -", param="api_keys"
                )
        if self.one_memory and self.api_keys:
            raise SetupError(
                "one_memory gives everybody the memory of one person, and there are API keys: leave one of them out.",
                param="one_memory",
            )
        for origin in self.cors_origins:
            if not re.fullmatch(ORIGIN_PATTERN, origin):
                raise SetupError(
                    f"the origin {origin!r} is none: write it as browsers do, scheme://host:port and nothing behind.",
                    param="cors_origins",
                )
        for host in self.allowed_hosts:
            if not re.fullmatch(HOST_PATTERN, host):
                raise SetupError(f"the host {host!r} is no name: leave out scheme and port.", param="allowed_hosts")
        if not all(self.api_keys):
            raise SetupError("an API key is empty: give every tenant a key, or leave api_keys out.", param="api_keys")
