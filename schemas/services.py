"""Requests that agents answer directly (NATS request-reply, discoverable as micro services)."""

from typing import Annotated

from msgspec import Meta, Struct

from schemas.adapters import AdapterName, MaybeSha256
from schemas.envelope import SESSION_PATTERN, TENANT_PATTERN
from schemas.stages import DomainScore, RecalledEpisode

MAX_EMBED_TEXTS = 256
"""Texts in one embedding request."""

ADVISORS = ("nerve-wml", "kiki-flow")
"""Who may advise the router, at ``svc.advise.<name>``."""


class _Wire(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class EmbedRequest(_Wire, frozen=True, kw_only=True):
    """Texts to embed with the router's model."""

    texts: Annotated[tuple[str, ...], Meta(min_length=1, max_length=MAX_EMBED_TEXTS)]


class EmbedReply(_Wire, frozen=True, kw_only=True):
    """One unit vector a text, in order."""

    vectors: tuple[tuple[float, ...], ...]
    compute: float


class CompareRequest(_Wire, frozen=True, kw_only=True):
    """Texts to compare by their embeddings."""

    texts: Annotated[tuple[str, ...], Meta(min_length=1, max_length=MAX_EMBED_TEXTS)]


class CompareReply(_Wire, frozen=True, kw_only=True):
    """``cosines[i][j]`` of the i-th and the j-th text, -1..1, and the seconds of the embedder that they waited for.

    It began with them at ``began_at`` (Unix time, 0 when it had them), which may be before they were asked for.
    """

    cosines: tuple[tuple[float, ...], ...]
    compute: float
    began_at: float = 0.0


class RouteRequest(_Wire, frozen=True, kw_only=True):
    """Prompts to classify; ``threshold`` None takes the trained one."""

    prompts: Annotated[tuple[str, ...], Meta(min_length=1, max_length=MAX_EMBED_TEXTS)]
    threshold: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    top_k: Annotated[int, Meta(ge=1, le=31)] = 4


class RoutedDomain(DomainScore, frozen=True, kw_only=True):
    """A router output above the threshold, and ``niche``: the one of the 35 domains that is meant inside it."""

    niche: str


class RoutedPrompt(_Wire, frozen=True, kw_only=True):
    """Domains above the threshold in descending score; none means base."""

    domains: tuple[RoutedDomain, ...]


class RouteReply(_Wire, frozen=True, kw_only=True):
    """One finding a prompt, in order."""

    results: tuple[RoutedPrompt, ...]


class AdviseRequest(_Wire, frozen=True, kw_only=True):
    """What an advisor (nerve-wml, kiki-flow) is told of a turn before its domains are chosen.

    ``embedding`` is the query's unit vector; ``scores`` are the router's calibrated probabilities by output. An
    advisor with a state steps it once a ``turn_id``: asked again, it gives the same advice again.
    """

    turn_id: str
    text: str
    embedding: tuple[float, ...]
    scores: dict[str, float]


class AdviseReply(_Wire, frozen=True, kw_only=True):
    """Advice; empty when the advisor has none.

    ``domains`` are probabilities by niche domain, and are blended; ``payload`` is what is recorded in the event, as
    the advisor says it (a weight by stack, say).
    """

    domains: dict[str, Annotated[float, Meta(ge=0.0, le=1.0)]] = {}
    payload: dict[str, float] = {}


class SearchRequest(_Wire, frozen=True, kw_only=True):
    """The tenant's episodes nearest to a query: ``text`` and ``vector``, its embedding.

    In one session when it is given; ``as_of`` (Unix time) asks what was known then.
    """

    tenant: Annotated[str, Meta(pattern=TENANT_PATTERN)]
    vector: Annotated[tuple[float, ...], Meta(min_length=1, max_length=8192)]
    text: str = ""
    as_of: float | None = None
    limit: Annotated[int, Meta(ge=1, le=100)] = 10
    session_id: Annotated[str, Meta(pattern=SESSION_PATTERN)] | None = None


class SearchReply(_Wire, frozen=True, kw_only=True):
    """Hits in descending order of score; no relevance floor and no budget is applied."""

    hits: tuple[RecalledEpisode, ...]


class RebuildRequest(_Wire, frozen=True, kw_only=True):
    """Make the memory's stores again from the record: one tenant's part, or all of them."""

    tenant: Annotated[str, Meta(pattern=TENANT_PATTERN)] | None = None


class RebuildReply(_Wire, frozen=True, kw_only=True):
    """``episodes`` are in the stores now; it took ``seconds``."""

    episodes: int
    seconds: float


class VerifyRequest(_Wire, frozen=True, kw_only=True):
    """Compare the memory's stores with the record: one tenant's part, or all of them."""

    tenant: Annotated[str, Meta(pattern=TENANT_PATTERN)] | None = None


class VerifyReply(_Wire, frozen=True, kw_only=True):
    """What differs. ``waiting`` episodes are recorded and not yet projected, so they may be missing."""

    recorded: int
    waiting: int
    missing_in_atlas: tuple[str, ...]
    missing_in_trace: tuple[str, ...]
    unknown_in_atlas: int
    unknown_in_trace: int

    @property
    def agrees(self) -> bool:
        """Whether nothing is missing and nothing is unknown."""
        return not (self.missing_in_atlas or self.missing_in_trace or self.unknown_in_atlas or self.unknown_in_trace)


class StatsRequest(_Wire, frozen=True, kw_only=True):
    """What one tenant has in the memory's stores."""

    tenant: Annotated[str, Meta(pattern=TENANT_PATTERN)]


class StatsReply(_Wire, frozen=True, kw_only=True):
    """Episodes in each store, and edges between episodes by kind."""

    atlas_episodes: int
    trace_episodes: int
    edges: dict[str, int]


class SleepRequest(_Wire, frozen=True, kw_only=True):
    """Sum up related old episodes: of one tenant or of all, recorded until ``before`` (Unix time).

    Without ``before`` it is the last midnight (UTC) that is ``sleep_age`` ago. ``limit`` bounds the new summaries.
    """

    tenant: Annotated[str, Meta(pattern=TENANT_PATTERN)] | None = None
    before: float | None = None
    limit: Annotated[int, Meta(ge=1, le=1000)] = 100


class Merged(_Wire, frozen=True, kw_only=True):
    """A summary and the episodes that it stands for."""

    tenant: str
    summary_id: str
    text: str
    episodes: tuple[str, ...]


class SleepReply(_Wire, frozen=True, kw_only=True):
    """What was summed up.

    Attributes:
        merged: the new summaries.
        known: summaries of this plan that an earlier sleep had made.
        left: summaries of this plan that were not made: the limit was reached, or the model failed.
        held: old episodes that were left alone because ``held_by`` has not acknowledged them.
        before: the Unix time until which episodes counted as old.
    """

    merged: tuple[Merged, ...]
    known: int
    left: int
    held: int
    held_by: str
    before: float


class SessionRequest(_Wire, frozen=True, kw_only=True):
    """What is remembered of one session."""

    tenant: Annotated[str, Meta(pattern=TENANT_PATTERN)]
    session_id: Annotated[str, Meta(pattern=SESSION_PATTERN)]


class SessionReply(_Wire, frozen=True, kw_only=True):
    """A session's episodes in time; none when nothing is known of it."""

    session_id: str
    episodes: tuple[RecalledEpisode, ...]


class ForgetRequest(_Wire, frozen=True, kw_only=True):
    """Delete one session from the record and from the memory's stores."""

    tenant: Annotated[str, Meta(pattern=TENANT_PATTERN)]
    session_id: Annotated[str, Meta(pattern=SESSION_PATTERN)]


class ForgetReply(_Wire, frozen=True, kw_only=True):
    """How many episodes are forgotten."""

    episodes: int


class AdapterRequest(_Wire, frozen=True, kw_only=True):
    """A registered adapter, by its name; never a path. ``sha256``: the digest that it must have, if it is given."""

    name: AdapterName
    sha256: MaybeSha256 = ""


class AdapterListRequest(_Wire, frozen=True, kw_only=True):
    """Which adapters does the worker know."""


class AdapterInfo(_Wire, frozen=True, kw_only=True):
    """An adapter as the worker has it: ``resident`` in memory, ``seated`` beside others, ``active`` in the model.

    ``sha256``, ``bytes``, ``modules`` and ``norm`` (Frobenius, of the whole change) are known once it was read;
    ``seconds`` is what the verb took.
    """

    name: str
    resident: bool = False
    seated: bool = False
    active: bool = False
    sha256: str = ""
    bytes: int = 0
    modules: int = 0
    seconds: float = 0.0
    norm: float | None = None


class AdapterListReply(_Wire, frozen=True, kw_only=True):
    """All registered adapters by name, and the budget of the resident ones in bytes."""

    adapters: tuple[AdapterInfo, ...]
    budget: int = 0


class StatusReply(_Wire, frozen=True, kw_only=True):
    """An agent's health: whether it can take work, and its gauges (counts, bytes, seconds)."""

    agent: str
    ready: bool
    detail: str = ""
    gauges: dict[str, float] = {}
    info: dict[str, str] = {}


class ServiceError(_Wire, frozen=True, kw_only=True):
    """The reply when a request cannot be answered."""

    code: str
    message: str
    param: str | None = None


class DeadLetter(_Wire, frozen=True, kw_only=True):
    """A message that was given up, with all it takes to look at it and to replay it.

    ``payload`` is the original body (base64 on the wire, bytes in Python); ``subject`` where it was.
    """

    subject: str
    stream: str
    consumer: str
    reason: str
    deliveries: int
    headers: dict[str, str]
    payload: bytes
    failed_at: float
