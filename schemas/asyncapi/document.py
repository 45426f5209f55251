"""The contract as an AsyncAPI 3.0 document with JSON Schemas, generated from the structs.

The runtime refuses fields that it does not know, and its readers are asked to pass over those: only the schemas of what
is sent to it as a request are closed.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from schemas.adapters import ADAPTER_EVENTS
from schemas.asyncapi.examples import example
from schemas.asyncapi.references import find_reachable
from schemas.calls import SERVICES, STATUS, TENANT_SERVICES, Service
from schemas.dream import DREAM_LOG, DreamRequested, Snapshot
from schemas.envelope import SCHEMA_VERSION
from schemas.events import STAGE_EVENTS, EpisodeForgotten, EpisodeRecorded, Event, InferBegun, InferToken, Signal
from schemas.jobs import LANES, Job, JobResult
from schemas.services import EpisodesConsumed, ServiceRegistered
from schemas.status import AgentReport, DeadLetter, ServiceError, StatusReply

_DEFS = "#/components/schemas/{name}"
_PLACEHOLDER = re.compile(r"\{(\w+)\}")


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
    "advisor": {"description": "The advisor's name in the router's settings."},
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
    services = (*SERVICES, *TENANT_SERVICES)
    kinds |= {JobResult, StatusReply, AgentReport, ServiceError}
    kinds |= {kind for service in services for kind in (service.reply, *service.pieces)}
    read = {kind.__name__ for kind in kinds}
    kinds |= {service.request for service in services}
    _, schemas = msgspec.json.schema_components(sorted(kinds, key=lambda kind: kind.__name__), ref_template=_DEFS)
    for name in find_reachable(schemas, read):
        schemas[name].pop("additionalProperties", None)
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "micro-kiki",
            "version": f"{SCHEMA_VERSION}.0.0",
            "description": "Events, jobs and services of the micro-kiki agent runtime on NATS. Readers pass over "
            "fields that they do not know: a new optional field does not raise the version. The runtime itself refuses "
            "them.",
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
    for name, address, service in _list_services(prefix):
        by_name[f"{name}Service"] = _request_channel(service, address)
        by_name[f"{name}Reply"] = _reply_channel(service.reply, *service.pieces, ServiceError)
    by_name["StatusService"] = {
        "address": f"{prefix}.svc.{STATUS.at('{agent}').verb}",
        "description": "The answer of one instance of the agent to an empty request.",
        "parameters": {"agent": _PARAMETERS["agent"]},
        "messages": {"StatusReply": {"$ref": "#/components/messages/StatusReply"}},
    }
    by_name["ReportService"] = {
        "address": f"{prefix}.svc.status",
        "description": "The answers of all instances of all agents to an empty request, which no queue group shares. "
        "/ready counts an agent by them.",
        "messages": {"AgentReport": {"$ref": "#/components/messages/AgentReport"}},
    }
    return by_name


def _list_services(prefix: str) -> Iterator[tuple[str, str, Service[Any, Any]]]:
    """Each request with its verb as an identifier (``memory.search`` is ``MemorySearch``), and where it is asked."""
    for service in SERVICES:
        yield _identifier(service.verb), f"{prefix}.svc.{service.verb}", service
    for service in TENANT_SERVICES:
        yield _identifier(f"ask.{service.verb}"), f"{prefix}.ask.{{tenant}}.{service.verb}", service


def _identifier(verb: str) -> str:
    words = _PLACEHOLDER.sub("", verb).replace("-", ".").split(".")
    return "".join(word.capitalize() for word in words)


def _request_channel(service: Service[Any, Any], address: str) -> dict[str, Any]:
    name = service.request.__name__
    parameters = {placeholder: _PARAMETERS[placeholder] for placeholder in _PLACEHOLDER.findall(address)}
    return {
        "address": address,
        "messages": {name: {"$ref": f"#/components/messages/{name}"}},
        **({"parameters": parameters} if parameters else {}),
    }


def _reply_channel(*kinds: type[msgspec.Struct]) -> dict[str, Any]:
    names = sorted(kind.__name__ for kind in kinds)
    return {"address": None, "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names}}


def _service_operations() -> dict[str, Any]:
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
        for name, _, service in _list_services("")
    }


def _message(kind: type[msgspec.Struct]) -> dict[str, Any]:
    return {
        "name": kind.__name__,
        "contentType": "application/json",
        "summary": _first_line(kind),
        "headers": _ERROR_HEADERS if kind is ServiceError else _HEADERS,
        "payload": {"$ref": _DEFS.format(name=kind.__name__)},
        "examples": [{"name": kind.__name__, "payload": example(kind)}],
    }


_HEADERS = {
    "type": "object",
    "properties": {
        "Nats-Msg-Id": {
            "type": "string",
            "description": "<turn_id>:<noun>.<verb>; of a dissent <turn_id>:dissent, of a turn's end <turn_id>:end, of "
            "a job <turn_id>:job.<job_id>. A repeated id marks a duplicate.",
        },
        "traceparent": {"type": "string", "description": "W3C trace context."},
    },
}

_ERROR_HEADERS = {
    "type": "object",
    "properties": {
        "Nats-Service-Error": {"type": "string", "description": "Why, in words; a reply without it is no refusal."},
        "Nats-Service-Error-Code": {"type": "string", "description": "The HTTP status of the error's code."},
    },
}


def _first_line(kind: type[msgspec.Struct]) -> str:
    return (kind.__doc__ or kind.__name__).strip().splitlines()[0].replace("``", "")
