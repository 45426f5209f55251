"""The requests of the contract: each a verb with the struct that asks and the struct that answers.

A request is sent to ``<prefix>.svc.<verb>``, that of a tenant's service to ``<prefix>.ask.<tenant>.<verb>``. Who serves
one, who asks one, and the AsyncAPI document use the definition here.
"""

from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import msgspec

from schemas.adapters import (
    AdapterInfo,
    AdapterListReply,
    AdapterListRequest,
    AdapterRequest,
    AnglesReply,
    AnglesRequest,
    JudgeReply,
    JudgeRequest,
)
from schemas.advisors import ADVISORS, AdviseReply, AdviseRequest
from schemas.consolidation import (
    DiscardReply,
    DiscardRequest,
    ExchangeReply,
    ExchangeRequest,
    ExportReply,
    ExportRequest,
    ProtectReply,
    ProtectRequest,
    RestoreReply,
    RestoreRequest,
    StageReply,
    StageRequest,
    SwapReply,
    SwapRequest,
    TrainReply,
    TrainRequest,
)
from schemas.dream import (
    BetaReply,
    BetaRequest,
    DreamAccepted,
    DreamRequest,
    DreamStatus,
    DreamStatusRequest,
    SnapshotReply,
    SnapshotRequest,
)
from schemas.embedder import CompareReply, CompareRequest, EmbedReply, EmbedRequest
from schemas.flow import (
    FlowFetchReply,
    FlowFetchRequest,
    FlowPublishReply,
    FlowPublishRequest,
    FlowSnapshotReply,
    FlowSnapshotRequest,
)
from schemas.memory import (
    ConversationReply,
    ConversationRequest,
    ForgetReply,
    ForgetRequest,
    RebuildReply,
    RebuildRequest,
    SearchReply,
    SearchRequest,
    SessionReply,
    SessionRequest,
    SleepReply,
    SleepRequest,
    StatsReply,
    StatsRequest,
    VerifyReply,
    VerifyRequest,
)
from schemas.router import RouteReply, RouteRequest
from schemas.services import (
    FetchReply,
    FetchRequest,
    MarkReply,
    MarkRequest,
    RegisterRequest,
    ReplayReply,
    ReplayRequest,
    ReplayStopReply,
    ReplayStopRequest,
    ServiceInfo,
    ServiceListReply,
    ServiceListRequest,
    TrimReply,
    TrimRequest,
    UnregisterRequest,
)
from schemas.status import StatusReply
from schemas.tenants import TenantAnswer, TenantEnd, TenantPiece, TenantRecords, TenantRecordsReply, TenantTurn
from schemas.tokens import CountReply, CountRequest

Q = TypeVar("Q", bound=msgspec.Struct | None)
A = TypeVar("A", bound=msgspec.Struct | None)


@dataclass(frozen=True)
class Service(Generic[Q, A]):
    """A verb, the struct of its request and that of its reply; an empty body where the type is None.

    ``pieces`` are what may come before the reply.
    """

    verb: str
    request: type[Q]
    reply: type[A]
    pieces: tuple[type[msgspec.Struct], ...] = ()

    def at(self, name: str) -> "Service[Q, A]":
        """The same request to the one that has this name, at ``<verb>.<name>``."""
        return replace(self, verb=f"{self.verb}.{name}")


EMBED = Service("embed", EmbedRequest, EmbedReply)
COMPARE = Service("compare", CompareRequest, CompareReply)
ROUTE = Service("route", RouteRequest, RouteReply)
COUNT = Service("count", CountRequest, CountReply)

ADVISE = Service("advise", AdviseRequest, AdviseReply)
"""Asked of an advisor by its name."""

MEMORY_SEARCH = Service("memory.search", SearchRequest, SearchReply)
MEMORY_EMBED = Service("memory.embed", EmbedRequest, EmbedReply)
MEMORY_REBUILD = Service("memory.rebuild", RebuildRequest, RebuildReply)
MEMORY_VERIFY = Service("memory.verify", VerifyRequest, VerifyReply)
MEMORY_STATS = Service("memory.stats", StatsRequest, StatsReply)
MEMORY_SLEEP = Service("memory.sleep", SleepRequest, SleepReply)
MEMORY_SESSION = Service("memory.session", SessionRequest, SessionReply)
MEMORY_CONVERSATION = Service("memory.conversation", ConversationRequest, ConversationReply)
MEMORY_FORGET = Service("memory.forget", ForgetRequest, ForgetReply)

ADAPTERS_LS = Service("adapters.ls", AdapterListRequest, AdapterListReply)
ADAPTERS_CHECK = Service("adapters.check", AdapterRequest, AdapterInfo)
ADAPTERS_LOAD = Service("adapters.load", AdapterRequest, AdapterInfo)
ADAPTERS_UNLOAD = Service("adapters.unload", AdapterRequest, AdapterInfo)
ADAPTERS_ACTIVATE = Service("adapters.activate", AdapterRequest, AdapterInfo)
ADAPTERS_EXPORT = Service("adapters.export", ExportRequest, ExportReply)
ADAPTERS_TRAIN = Service("adapters.train", TrainRequest, TrainReply)
ADAPTERS_PROTECT = Service("adapters.protect", ProtectRequest, ProtectReply)
ADAPTERS_STAGE = Service("adapters.stage", StageRequest, StageReply)
ADAPTERS_ANGLES = Service("adapters.angles", AnglesRequest, AnglesReply)
ADAPTERS_EXCHANGE = Service("adapters.exchange", ExchangeRequest, ExchangeReply)
ADAPTERS_RESTORE = Service("adapters.restore", RestoreRequest, RestoreReply)
ADAPTERS_DISCARD = Service("adapters.discard", DiscardRequest, DiscardReply)

GATES_JUDGE = Service("gates.judge", JudgeRequest, JudgeReply)

DREAM_FETCH = Service("dream.fetch", BetaRequest, BetaReply)
DREAM_REQUEST = Service("dream.request", DreamRequest, DreamAccepted)
DREAM_STATUS = Service("dream.status", DreamStatusRequest, DreamStatus)
DREAM_SNAPSHOT = Service("dream.snapshot", SnapshotRequest, SnapshotReply)
DREAM_SWAP = Service("dream.swap", SwapRequest, SwapReply)

SERVICES_REGISTER = Service("services.register", RegisterRequest, ServiceInfo)
SERVICES_UNREGISTER = Service("services.unregister", UnregisterRequest, ServiceInfo)
SERVICES_LS = Service("services.ls", ServiceListRequest, ServiceListReply)
SERVICES_FETCH = Service("services.fetch", FetchRequest, FetchReply)
SERVICES_MARK = Service("services.mark", MarkRequest, MarkReply)
SERVICES_TRIM = Service("services.trim", TrimRequest, TrimReply)

REPLAY_START = Service("replay.start", ReplayRequest, ReplayReply)
REPLAY_STOP = Service("replay.stop", ReplayStopRequest, ReplayStopReply)

FLOW_FETCH = Service("flow.fetch", FlowFetchRequest, FlowFetchReply)
FLOW_SNAPSHOT = Service("flow.snapshot", FlowSnapshotRequest, FlowSnapshotReply)
FLOW_PUBLISH = Service("flow.publish", FlowPublishRequest, FlowPublishReply)

STATUS = Service("status", type(None), StatusReply)
"""Asked of an agent by its name; without one every instance of every agent answers with its report."""

AWAITS = Service("awaits", type(None), type(None))
"""Whether anybody still waits for a turn, asked by the turn's id: whoever does answers with an empty body."""

TENANT_TURN = Service("turn", TenantTurn, TenantAnswer, pieces=(TenantPiece,))
TENANT_END = Service("end", TenantEnd, TenantAnswer)
TENANT_RECORDS = Service("records", TenantRecords, TenantRecordsReply)

ADAPTER_VERBS = {
    "check": ADAPTERS_CHECK,
    "load": ADAPTERS_LOAD,
    "unload": ADAPTERS_UNLOAD,
    "activate": ADAPTERS_ACTIVATE,
}
"""What an administrator does with one adapter, by the word for it."""

SERVICES: tuple[Service[Any, Any], ...] = (
    *(EMBED, COMPARE, ROUTE, COUNT),
    *(ADVISE.at(name) for name in (*ADVISORS, "{advisor}")),
    *(MEMORY_SEARCH, MEMORY_EMBED, MEMORY_REBUILD, ADAPTERS_LS),
    *ADAPTER_VERBS.values(),
    *(ADAPTERS_EXPORT, ADAPTERS_TRAIN, ADAPTERS_PROTECT, ADAPTERS_STAGE),
    *(ADAPTERS_ANGLES, ADAPTERS_EXCHANGE, ADAPTERS_RESTORE, ADAPTERS_DISCARD, GATES_JUDGE),
    *(DREAM_FETCH, DREAM_REQUEST, DREAM_STATUS, DREAM_SNAPSHOT, DREAM_SWAP),
    *(MEMORY_VERIFY, MEMORY_STATS, MEMORY_SLEEP, MEMORY_SESSION, MEMORY_CONVERSATION, MEMORY_FORGET),
    *(SERVICES_REGISTER, SERVICES_UNREGISTER, SERVICES_LS, SERVICES_FETCH, SERVICES_MARK, SERVICES_TRIM),
    *(REPLAY_START, REPLAY_STOP, FLOW_FETCH, FLOW_SNAPSHOT, FLOW_PUBLISH),
)
"""The runtime's requests at ``<prefix>.svc.<verb>``."""

TENANT_SERVICES: tuple[Service[Any, Any], ...] = (TENANT_TURN, TENANT_END, TENANT_RECORDS)
"""A tenant's at ``<prefix>.ask.<tenant>.<verb>``."""
