"""Dream episodes, named as in dream-of-kiki's framework C (v0.9): the request, its outcome, and the records it reads.

A dream episode works on one adapter. Its id takes the place of a turn's id in the envelope and in the subject, so that
``<prefix>.dream.*.<episode_id>`` are all its events. Field names of dream-of-kiki's contract are kept as they are
(``saillance_score``, ``consumed_by_DE_id``).
"""

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, field

from schemas.adapters import AdapterName, Sha256
from schemas.base import Integer, WireStruct
from schemas.envelope import TENANT_PATTERN, TURN_ID_PATTERN
from schemas.events import Event
from schemas.numbers import Amount, Component, Number
from schemas.services import MAX_WAIT, RecordId, ServiceName

Trigger = Literal["scheduled", "saturation", "external"]
Operation = Literal["replay", "downscale", "restructure", "recombine"]
Output = Literal["weight_delta", "latent_sample", "hierarchy_chg", "attention_prior"]
ProfileName = Literal["P_min", "P_equ", "P_max"]

QUEUE = 128
"""The most dream episodes that may wait; a further one is refused."""

RING = 256
"""The most latent snapshots that are kept; a further one replaces the oldest."""

MAX_RECORDS = 256
MAX_OTHERS = 8

EpisodeId = Annotated[str, Meta(pattern=TURN_ID_PATTERN)]
Vector = Annotated[tuple[Component, ...], Meta(min_length=1, max_length=8192)]


class MemoryOwner(WireStruct, frozen=True, kw_only=True, order=True):
    """Whose episodes were used: a tenant and one of its users (empty: conversations in which nobody was named)."""

    tenant: str
    user: str = ""


class BetaRecord(WireStruct, frozen=True, kw_only=True):
    """One episode as dream-of-kiki's handlers read it.

    ``id`` is the record's id, as ``services.mark`` takes it; ``context`` is the question, ``outcome`` the answer;
    ``timestamp`` is Unix time; ``owner`` says whose episode it is. ``input`` and ``x`` are the embedding of the
    context, ``y`` is that of the outcome.
    """

    id: RecordId
    context: str
    outcome: str
    saillance_score: Annotated[float, Meta(ge=0.0, le=1.0)]
    timestamp: Number
    consumed_by: str | None = None
    consumed_by_DE_id: str | None = None
    x: Vector | None = None
    y: Vector | None = None
    input: Vector | None = None
    owner: MemoryOwner | None = None


class InputSlice(WireStruct, frozen=True, kw_only=True):
    """What a dream episode reads.

    ``adapter`` is the adapter that it works on. ``beta_records`` are replayed in their order. ``others`` are adapters
    that the operation restructure stays away from and that recombine merges in. ``snapshots`` is how many snapshots of
    the latent ring are read, the latest first.
    """

    adapter: AdapterName
    beta_records: Annotated[tuple[BetaRecord, ...], Meta(max_length=MAX_RECORDS)] = ()
    others: Annotated[tuple[AdapterName, ...], Meta(max_length=MAX_OTHERS)] = ()
    snapshots: Annotated[int, Meta(ge=0, le=RING)] = 0


class Budget(WireStruct, frozen=True, kw_only=True):
    """What a dream episode may cost at most: floating point operations, seconds, joules (estimated)."""

    flops: Amount
    wall_time_s: Amount
    energy_j: Amount


class DreamEpisode(WireStruct, frozen=True, kw_only=True):
    """One consolidation: the operations in their order, and the outputs that they should produce."""

    episode_id: EpisodeId
    trigger: Trigger
    input_slice: InputSlice
    operation_set: Annotated[tuple[Operation, ...], Meta(min_length=1, max_length=4)]
    output_channels: Annotated[tuple[Output, ...], Meta(min_length=1, max_length=4)]
    budget: Budget


class WeightDelta(WireStruct, frozen=True, kw_only=True):
    """A proposed adapter, made from ``base_sha256``; its weights lie in the object store under ``sha256``.

    ``loss_before`` and ``loss_after`` are mean cross-entropies of the replayed outcomes (nats per token).
    """

    adapter: str
    sha256: Sha256
    base_sha256: Sha256
    bytes: Integer
    loss_before: float | None = None
    loss_after: float | None = None


class LatentSample(WireStruct, frozen=True, kw_only=True):
    """A vector between two snapshots of one species; ``provenance`` names what it was made of."""

    species: str
    latent_vector: Vector
    provenance: str


class TopologyChange(WireStruct, frozen=True, kw_only=True):
    """A module that restructure removed from the adapter because nothing of the module's change was left."""

    kind: Literal["remove"]
    module: str


class DreamReport(WireStruct, frozen=True, kw_only=True):
    """The log entry of one dream episode's execution. ``executed`` names the operations that were begun, in order.

    Only the ids of the records and whose they are is kept: a log must not hold text that its owner may have deleted
    since.
    """

    episode_id: str
    profile: ProfileName
    trigger: Trigger
    adapter: str
    executed: tuple[Operation, ...] = ()
    record_ids: tuple[Integer, ...] = ()
    owners: tuple[MemoryOwner, ...] = ()
    spent: Budget = Budget(flops=0.0, wall_time_s=0.0, energy_j=0.0)
    weight_delta: WeightDelta | None = None
    latent_sample: tuple[LatentSample, ...] = ()
    hierarchy_chg: tuple[TopologyChange, ...] = ()
    attention_prior: dict[str, float] = {}


class DreamRequested(Event, frozen=True, kw_only=True):
    """A dream episode that waits to be executed. One consumer takes them in order."""

    subject: ClassVar[str] = "dream.requested"
    profile: ProfileName
    episode: DreamEpisode


class DreamDone(Event, frozen=True, kw_only=True):
    """A dream episode ran to its end. A weight delta is a proposal: only a swap makes it answer turns."""

    subject: ClassVar[str] = "dream.done"
    report: DreamReport


class DreamAborted(Event, frozen=True, kw_only=True):
    """A dream episode failed or exceeded its budget; what it had produced is discarded."""

    subject: ClassVar[str] = "dream.aborted"
    report: DreamReport
    code: str
    message: str
    param: str | None = None


class DreamSwapped(Event, frozen=True, kw_only=True):
    """A proposed adapter answers from now on. ``pause_ms``: how long nothing was decoded during the exchange.

    ``attention_prior`` came with the swap request and passed invariant S4; it is recorded for services that route by
    it.
    """

    subject: ClassVar[str] = "dream.swapped"
    adapter: str
    sha256: str
    base_sha256: str
    pause_ms: float
    retained_set: str
    retained_before: float
    retained_after: float
    attention_prior: dict[str, float] = field(default_factory=dict)


class DreamRequest(WireStruct, frozen=True, kw_only=True):
    """Queue a dream episode. A repeated request with the same id is the same episode."""

    profile: ProfileName
    episode: DreamEpisode
    tenant: Annotated[str, Meta(pattern=TENANT_PATTERN)] = "dream"


class DreamAccepted(WireStruct, frozen=True, kw_only=True):
    """The dream episode is queued, now or by an earlier request; ``waiting`` counts all dream episodes that wait."""

    episode_id: str
    waiting: Integer


class DreamStatusRequest(WireStruct, frozen=True, kw_only=True):
    """How far a dream episode has come."""

    episode_id: EpisodeId


class DreamStatus(WireStruct, frozen=True, kw_only=True):
    """The state of a dream episode, and its log entry once it was executed.

    ``code``, ``message`` and ``param`` say why it was aborted.
    """

    episode_id: str
    state: Literal["waiting", "done", "aborted", "unknown"]
    report: DreamReport | None = None
    code: str | None = None
    message: str = ""
    param: str | None = None


class SnapshotRequest(WireStruct, frozen=True, kw_only=True):
    """Put latent vectors, one for each species, into the ring of snapshots."""

    snapshot_id: EpisodeId
    species: Annotated[dict[str, Vector], Meta(min_length=1, max_length=64)]


class SnapshotReply(WireStruct, frozen=True, kw_only=True):
    """How many snapshots the ring holds."""

    kept: Integer


class Snapshot(Event, frozen=True, kw_only=True):
    """Latent vectors by species: one entry of the ring of snapshots."""

    subject: ClassVar[str] = "dream.snapshot"
    species: dict[str, Vector]


class BetaRequest(WireStruct, frozen=True, kw_only=True):
    """The oldest records that a registered service has not consumed, as beta records.

    ``pairs`` asks for ``y``, too: the embedding of the answer, which is computed on request.
    """

    name: ServiceName
    limit: Annotated[int, Meta(ge=1, le=MAX_RECORDS)] = 32
    wait: Annotated[float, Meta(ge=0.0, le=MAX_WAIT)] = 0.0
    holder: Annotated[str, Meta(max_length=128)] = ""
    pairs: bool = False


class BetaReply(WireStruct, frozen=True, kw_only=True):
    """Beta records in the order of the record. ``services.mark`` takes their ids once a dream episode learned them.

    ``tombstones`` are ids of tombstones among them, when the service reads those, too: there is nothing to learn from
    them, and they are marked in their order with the others.
    """

    records: tuple[BetaRecord, ...]
    tombstones: tuple[Integer, ...] = ()


DREAM_LOG: tuple[type[Event], ...] = (DreamDone, DreamAborted, DreamSwapped)
"""The events of the DREAMLOG stream."""
