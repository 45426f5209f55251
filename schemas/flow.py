"""Requests of kiki-flow: what it reads of the runtime, and the advice that it publishes."""

from typing import Annotated, ClassVar

from msgspec import Meta

from schemas.base import END, Integer, WireStruct
from schemas.envelope import TENANT_PATTERN, User
from schemas.numbers import Amount, Number
from schemas.services import RecordPlace

STACKS = 32
"""Stacks of kiki-flow's state; ``configs/stacks.yaml`` says which domains each of them stands for."""

MAX_EPISODES = 1000
"""Episodes in one reply."""

StackName = Annotated[str, Meta(min_length=1, max_length=128)]
"""A stack as kiki-flow names it: ``stack_05`` by its index, one of its domains, or both (``stack-06-power``)."""

SourceName = Annotated[str, Meta(pattern=rf"^[A-Za-z0-9][A-Za-z0-9_-]{{0,63}}{END}")]
Quantity = Number | tuple[Number, ...]


class FlowFetchRequest(WireStruct, frozen=True, kw_only=True):
    """Episodes of the last ``window_h`` hours, oldest first; the next page begins after the last one's ``id``."""

    window_h: Annotated[float, Meta(gt=0.0, le=8784.0)]
    tenant: Annotated[str, Meta(pattern=TENANT_PATTERN)] | None = None
    user: User | None = None
    after: RecordPlace = 0
    limit: Annotated[int, Meta(ge=1, le=MAX_EPISODES)] = 200


class FlowEpisode(WireStruct, frozen=True, kw_only=True):
    """An episode as kiki-flow reads it. ``stacks`` maps the index of each stack (0..31) of its domains to a score."""

    id: Integer
    episode_id: str
    timestamp: float
    tenant: str
    user: str = ""
    session_id: str
    question: str
    answer: str
    concepts: tuple[str, ...]
    saillance_score: float
    domains: dict[str, float]
    stacks: dict[str, float]


class FlowFetchReply(WireStruct, frozen=True, kw_only=True):
    """One page of episodes; ``more`` says whether the window holds further ones."""

    episodes: tuple[FlowEpisode, ...]
    more: bool


class FlowSnapshotRequest(WireStruct, frozen=True, kw_only=True):
    """Ask for the norms of the adapters. With ``read``, the worker first reads adapters that it has not read yet."""

    read: bool = False


class AdapterNorm(WireStruct, frozen=True, kw_only=True):
    """How much an adapter changes the base: the Frobenius norm over all modules, scale included; None when not read.

    ``stack`` is the index of its domain's stack (0..31); None when it has none.
    """

    name: str
    stack: Integer | None
    norm: float | None
    sha256: str = ""


class FlowSnapshotReply(WireStruct, frozen=True, kw_only=True):
    """Every registered adapter, and a norm for each stack: the root of the sum of squares of its adapters' norms."""

    at: float
    adapters: tuple[AdapterNorm, ...]
    stacks: Annotated[tuple[float, ...], Meta(min_length=STACKS, max_length=STACKS)]


class FlowPublishRequest(WireStruct, frozen=True, kw_only=True):
    """Advice at the flow's time ``tau``: either a ``state_summary`` (numbers by name) or weights of the stacks.

    The weights are one for each stack in their order, or by name; a stack that is not named weighs nothing.
    """

    tau: Amount = 0.0
    source: SourceName = "kiki-flow"
    state_summary: Annotated[dict[str, Quantity], Meta(min_length=1, max_length=256)] | None = None
    stack_weights: (
        Annotated[tuple[Amount, ...], Meta(min_length=STACKS, max_length=STACKS)]
        | Annotated[dict[StackName, Amount], Meta(min_length=1, max_length=256)]
        | None
    ) = None


class FlowPublishReply(WireStruct, frozen=True, kw_only=True):
    """The sequence at which the advice is recorded, and the probabilities by domain that the weights stand for.

    The probabilities sum to 1; there are none without weights of known stacks. ``unknown`` are the names that stand for
    no stack: their weights are recorded, and say nothing of the domains.
    """

    seq: Integer
    domains: dict[str, float]
    unknown: tuple[str, ...] = ()


class AdvicePublished(WireStruct, frozen=True, kw_only=True):
    """Advice of another service, as it is recorded. Published on ``service.advised.<source>``.

    Weights that came by name are in ``named_weights`` as they came, and in ``stack_weights`` in the stacks' order.
    """

    subject: ClassVar[str] = "service.advised"
    source: SourceName
    tau: float
    at: float
    state_summary: dict[str, float | tuple[float, ...]] = {}
    stack_weights: tuple[float, ...] = ()
    named_weights: dict[str, float] = {}
    domains: dict[str, float] = {}
