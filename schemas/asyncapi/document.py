"""The contract as an AsyncAPI 3.0 document with JSON Schemas, generated from the structs."""

from dataclasses import dataclass
from typing import Any

import msgspec

from schemas.adapters import ADAPTER_EVENTS
from schemas.asyncapi.examples import example
from schemas.calls import SERVICES, STATUS, TENANT_SERVICES, Service
from schemas.dream import DREAM_LOG, DreamRequested, Snapshot
from schemas.envelope import SCHEMA_VERSION
from schemas.events import STAGE_EVENTS, EpisodeForgotten, EpisodeRecorded, Event, InferBegun, InferToken, Signal
from schemas.jobs import LANES, Job, JobResult
from schemas.services import EpisodesConsumed, ServiceRegistered
from schemas.status import DeadLetter, ServiceError

_DEFS = "#/components/schemas/{name}"


@dataclass(frozen=True)
class Channel:
    """One subject with its message; ``parameters`` are the subject's placeholders."""

    name: str
    address: str
    message: type[msgspec.Struct]
    parameters: tuple[str, ...] = ("turn_id",)


_PARAMETERS = {
    "turn_id": {"description": "The turn, one subject token of letters, digits, '_' and '-'."},
    "lane": {"description": "Priority of the job.", "enum": list(LANES)},
    "consumer": {"description": "The durable consumer that gave up on the message."},
    "agent": {"description": "The agent's name."},
    "service": {"description": "The name of a service."},
    "tenant": {"description": "The tenant, whose users alone may ask here."},
}


def channels(prefix: str) -> tuple[Channel, ...]:
    """Every subject that carries events: those of a turn in the turn's order, then all others."""
    kinds: tuple[type[Event | Signal], ...] = (
        *STAGE_EVENTS[:3],
        InferBegun,
        InferToken,
        *STAGE_EVENTS[3:],
        EpisodeRecorded,
        EpisodeForgotten,
        *ADAPTER_EVENTS,
        DreamRequested,
        *DREAM_LOG,
        Snapshot,
    )
    stages = [Channel(kind.__name__, f"{prefix}.{kind.subject}.{{turn_id}}", kind) for kind in kinds]
    return (
        *stages,
        Channel("Job", f"{prefix}.job.{{lane}}.{{turn_id}}", Job, ("lane", "turn_id")),
        Channel("DeadLetter", f"{prefix}.dead.{{consumer}}", DeadLetter, ("consumer",)),
        Channel(
            "ServiceRegistered", f"{prefix}.{ServiceRegistered.subject}.{{service}}", ServiceRegistered, ("service",)
        ),
        Channel("EpisodesConsumed", f"{prefix}.{EpisodesConsumed.subject}.{{service}}", EpisodesConsumed, ("service",)),
    )


def document(*, prefix: str = "kiki") -> dict[str, Any]:
    """The whole contract as an AsyncAPI 3.0 document."""
    events = channels(prefix)
    kinds: set[type[msgspec.Struct]] = {channel.message for channel in events}
    kinds |= {JobResult, STATUS.reply, ServiceError}
    kinds |= {
        kind for service in (*SERVICES, *TENANT_SERVICES) for kind in (service.request, service.reply, *service.pieces)
    }
    _, schemas = msgspec.json.schema_components(sorted(kinds, key=lambda kind: kind.__name__), ref_template=_DEFS)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "micro-kiki",
            "version": f"{SCHEMA_VERSION}.0.0",
            "description": "Events, jobs and services of the micro-kiki agent runtime on NATS.",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {"local": {"host": "127.0.0.1:4222", "protocol": "nats", "description": "The embedded broker."}},
        "channels": {**{c.name: _channel(c) for c in events}, **_service_channels(prefix)},
        "operations": {**{f"on{c.name}": _operation(c) for c in events}, **_service_operations()},
        "components": {
            "messages": {kind.__name__: _message(kind) for kind in sorted(kinds, key=lambda k: k.__name__)},
            "schemas": dict(sorted(schemas.items())),
        },
    }


def _channel(channel: Channel) -> dict[str, Any]:
    return {
        "address": channel.address,
        "description": _first_line(channel.message),
        "messages": {channel.message.__name__: {"$ref": f"#/components/messages/{channel.message.__name__}"}},
        "parameters": {name: _PARAMETERS[name] for name in channel.parameters},
    }


def _operation(channel: Channel) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "action": "receive",
        "channel": {"$ref": f"#/channels/{channel.name}"},
        "summary": _first_line(channel.message),
        "messages": [{"$ref": f"#/channels/{channel.name}/messages/{channel.message.__name__}"}],
    }
    if channel.message is Job:
        operation["reply"] = {
            "address": {"location": "$message.payload#/reply", "description": "The inbox of the stage that asked."},
            "channel": {"$ref": "#/channels/JobReply"},
            "messages": [{"$ref": "#/channels/JobReply/messages/JobResult"}],
        }
    return operation


def _service_channels(prefix: str) -> dict[str, Any]:
    by_name: dict[str, Any] = {"JobReply": _reply_channel(JobResult)}
    for service in SERVICES:
        by_name[f"{_name(service)}Service"] = _request_channel(service, f"{prefix}.svc.{service.verb}")
        by_name[f"{_name(service)}Reply"] = _reply_channel(service.reply, *service.pieces, ServiceError)
    for service in TENANT_SERVICES:
        channel = _request_channel(service, f"{prefix}.ask.{{tenant}}.{service.verb}")
        by_name[f"Ask{_name(service)}Service"] = {**channel, "parameters": {"tenant": _PARAMETERS["tenant"]}}
        by_name[f"Ask{_name(service)}Reply"] = _reply_channel(service.reply, *service.pieces, ServiceError)
    by_name["StatusService"] = {
        "address": f"{prefix}.svc.{STATUS.at('{agent}').verb}",
        "parameters": {"agent": _PARAMETERS["agent"]},
        "messages": {"StatusReply": {"$ref": "#/components/messages/StatusReply"}},
    }
    return by_name


def _name(service: Service[Any, Any]) -> str:
    """The verb as an identifier: ``memory.search`` is ``MemorySearch``."""
    return "".join(word.capitalize() for word in service.verb.replace("-", ".").split("."))


def _request_channel(service: Service[Any, Any], address: str) -> dict[str, Any]:
    name = service.request.__name__
    return {"address": address, "messages": {name: {"$ref": f"#/components/messages/{name}"}}}


def _reply_channel(*kinds: type[msgspec.Struct]) -> dict[str, Any]:
    names = sorted(kind.__name__ for kind in kinds)
    return {"address": None, "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names}}


def _service_operations() -> dict[str, Any]:
    operations = {_name(service): service for service in SERVICES}
    operations |= {f"Ask{_name(service)}": service for service in TENANT_SERVICES}
    return {
        f"serve{name}": {
            "action": "receive",
            "channel": {"$ref": f"#/channels/{name}Service"},
            "summary": _first_line(service.request),
            "reply": {
                "address": {"location": "$message.header#/reply", "description": "The NATS reply subject."},
                "channel": {"$ref": f"#/channels/{name}Reply"},
            },
        }
        for name, service in operations.items()
    }


def _message(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {
        "name": kind.__name__,
        "contentType": "application/json",
        "summary": _first_line(kind),
        "headers": _HEADERS,
        "payload": {"$ref": _DEFS.format(name=kind.__name__)},
        "examples": [{"name": kind.__name__, "payload": example(kind)}],
    }


_HEADERS = {
    "type": "object",
    "properties": {
        "Nats-Msg-Id": {"type": "string", "description": "<turn_id>:<stage>; a repeated id marks a duplicate."},
        "traceparent": {"type": "string", "description": "W3C trace context."},
    },
}


def _first_line(kind: type[msgspec.Struct]) -> str:
    return (kind.__doc__ or kind.__name__).strip().splitlines()[0].replace("``", "")
