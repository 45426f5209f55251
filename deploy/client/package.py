"""A client for the micro-kiki agent runtime: ask and follow the turn, read the record, be an agent of it.

async with connect("nats://127.0.0.1:4222") as kiki:
    async for piece in kiki.ask("What is the capital of France?", model="micro-kiki-fast"):
        print(piece, end="", flush=True)
"""

from micro_kiki_client.bus.access.login import Login
from micro_kiki_client.bus.client import Client, Turn, connect
from micro_kiki_client.bus.guest import GuestAgent
from micro_kiki_client.bus.handling.endpoint import Endpoint
from micro_kiki_client.bus.tenant_client import TenantClient, connect_tenant
from micro_kiki_client.bus.turn import Happening
from micro_kiki_client.schemas.advisors import AdviseReply, AdviseRequest
from micro_kiki_client.schemas.calls import Service
from micro_kiki_client.schemas.chat import Message, Sampling
from micro_kiki_client.schemas.envelope import SCHEMA_VERSION
from micro_kiki_client.schemas.episode import Episode
from micro_kiki_client.schemas.errors import KikiError, Unavailable
from micro_kiki_client.schemas.events import (
    AnswerReady,
    DissentRaised,
    DissentWaived,
    EpisodeForgotten,
    EpisodeRecorded,
    InferBegun,
    InferDone,
    InferToken,
    NegotiateDone,
    QueryReceived,
    QueryRouted,
    RecallDone,
    TurnCancelled,
    TurnFailed,
)
from micro_kiki_client.schemas.findings import Dissent, Query
from micro_kiki_client.schemas.services import EpisodeFilter, MarkReply, Record, Selection, ServiceInfo
from micro_kiki_client.schemas.tenants import TenantTurn

__all__ = [
    "SCHEMA_VERSION",
    "AdviseReply",
    "AdviseRequest",
    "AnswerReady",
    "Client",
    "Dissent",
    "DissentRaised",
    "DissentWaived",
    "Endpoint",
    "Episode",
    "EpisodeFilter",
    "EpisodeForgotten",
    "EpisodeRecorded",
    "GuestAgent",
    "Happening",
    "InferBegun",
    "InferDone",
    "InferToken",
    "KikiError",
    "Login",
    "MarkReply",
    "Message",
    "NegotiateDone",
    "Query",
    "QueryReceived",
    "QueryRouted",
    "RecallDone",
    "Record",
    "Sampling",
    "Selection",
    "Service",
    "ServiceInfo",
    "TenantClient",
    "TenantTurn",
    "Turn",
    "TurnCancelled",
    "TurnFailed",
    "Unavailable",
    "connect",
    "connect_tenant",
]
