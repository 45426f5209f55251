"""An example of every message, generated from its struct: the required fields, with realistic values.

A new struct usually needs no entry here. A field with a pattern or bounds of its own may need a value in the tables
below; a test validates every example and fails when one is missing.
"""

from typing import Any

import msgspec
from msgspec import inspect

TURN = "7d1f0c0e5a5b4c9b8f3e2a1d0c9b8a76"
_MOMENT = 1795392000.0

_BY_NAME: dict[str, Any] = {
    "ack_wait": 30.0,
    "agent": "memory",
    "answer": "Paris.",
    "at": _MOMENT,
    "attempt": 1,
    "before": _MOMENT,
    "content": "What is the capital of France?",
    "created_at": _MOMENT,
    "causation_id": f"{TURN}:query.received",
    "chosen": 0,
    "de_id": "de-2026-11-23-01",
    "deadline": _MOMENT + 120.0,
    "embedding": [0.6, 0.8],
    "episode_id": "5b0c6f7e-1a52-5d0f-9b0e-0a3c7f7c1d10",
    "event_id": f"{TURN}:query.received",
    "failed_at": _MOMENT,
    "finished_at": _MOMENT + 0.8,
    "holder": "dream@host-1",
    "ids": [41, 42],
    "intent": "agentic",
    "job_id": "0c9b8a767d1f0c0e5a5b4c9b8f3e2a1d",
    "logprob": -0.12,
    "model": "micro-kiki",
    "model_digest": "109109a4496c",
    "message": "the worker is away: ask again.",
    "name": "electronics-hw",
    "outcome": "deferred",
    "question": "What is the capital of France?",
    "reason": "no dissent: the candidates agree",
    "registered_at": _MOMENT,
    "replay_id": "2a1d0c9b8a767d1f0c0e5a5b4c9b8f3e",
    "reply": "_INBOX.aB3dE5fG7hI9",
    "score": 0.87,
    "session_id": "kitchen-table",
    "source": "kiki-flow",
    "sha256": "109109a4496c" + "0" * 52,
    "base_sha256": "5be1f42c77d0" + "0" * 52,
    "weights": "109109a4496c" + "0" * 52,
    "species": {"sem": [0.6, 0.8]},
    "staged": "spice.staged-109109a4496c",
    "retained_set": "77aa01c3d2e4" + "0" * 52,
    "operation_set": ["replay", "downscale"],
    "output_channels": ["weight_delta"],
    "context": "What is the capital of France?",
    "flops": 2e13,
    "wall_time_s": 60.0,
    "energy_j": 3900.0,
    "stage": "router",
    "started_at": _MOMENT + 0.1,
    "stored_at": _MOMENT + 1.0,
    "stream": False,
    "subject": "episode.recorded",
    "tenant": "ann",
    "text": "Paris.",
    "texts": ["What is the capital of France?"],
    "to": "copies.here",
    "transcript": "109109a4496c" + "0" * 52,
    "turn_id": TURN,
    "vector": [0.6, 0.8],
    "vectors": [[0.6, 0.8]],
}
"""Values by the name of a required field."""

_BY_FIELD: dict[tuple[str, str], Any] = {
    ("AdapterInfo", "name"): "cpp",
    ("AdapterInfo", "sha256"): "109109a4496c" + "0" * 52,
    ("AdapterRequest", "name"): "cpp",
    ("AdapterUse", "name"): "cpp",
    ("AdapterUse", "sha256"): "109109a4496c" + "0" * 52,
    ("DeadLetter", "consumer"): "memory-projection",
    ("DeadLetter", "headers"): {"Nats-Msg-Id": f"{TURN}:episode.recorded"},
    ("DeadLetter", "reason"): "max_deliver: the graph failed",
    ("DeadLetter", "stream"): "EPISODES",
    ("DeadLetter", "subject"): f"kiki.episode.recorded.{TURN}",
    ("Episode", "level"): "full",
    ("BetaRequest", "name"): "dream-of-kiki",
    ("BetaRecord", "outcome"): "Paris.",
    ("InputSlice", "adapter"): "spice",
    ("InputSlice", "beta_records"): [
        {
            "id": 41,
            "context": "What is the capital of France?",
            "outcome": "Paris.",
            "saillance_score": 0.7,
            "timestamp": _MOMENT,
        }
    ],
    ("Episode", "messages"): [{"role": "user", "content": "What is the capital of France?"}],
    ("EpisodesConsumed", "name"): "dream",
    ("EpisodesConsumed", "registration"): "3e2a1d0c9b8a767d1f0c0e5a5b4c9b8f",
    ("EpisodeFilter", "min_saillance"): 0.4,
    ("FetchRequest", "name"): "dream",
    ("FetchRequest", "wait"): 10.0,
    ("AdapterNorm", "name"): "cpp",
    ("FlowFetchRequest", "window_h"): 24.0,
    ("FlowPublishRequest", "stack_weights"): [0.0] * 31 + [1.0],
    ("FlowSnapshotReply", "stacks"): [0.0] * 31 + [1.0],
    ("MarkReply", "forgotten"): [],
    ("MarkReply", "marked"): 2,
    ("MarkReply", "place"): 42,
    ("MarkRequest", "name"): "dream",
    ("Message", "role"): "user",
    ("Plan", "level"): "full",
    ("Record", "id"): 41,
    ("RegisterRequest", "name"): "dream",
    ("RegisterRequest", "filter"): {"tenant": "ann", "min_saillance": 0.4},
    ("RouteRequest", "prompts"): ["Why does my buck converter ring?"],
    ("SearchRequest", "text"): "Name of my cat?",
    ("ServiceError", "code"): "name_taken",
    ("ServiceError", "message"): "the name 'dream' is taken: choose another, or unregister it first.",
    ("ServiceError", "param"): "name",
    ("ServiceInfo", "name"): "dream",
    ("ServiceInfo", "registration"): "3e2a1d0c9b8a767d1f0c0e5a5b4c9b8f",
    ("ServiceInfo", "subjects"): ["episode.recorded", "episode.forgotten"],
    ("ServiceListReply", "others"): [],
    ("ServiceRegistered", "name"): "dream",
    ("ServiceRegistered", "registration"): "3e2a1d0c9b8a767d1f0c0e5a5b4c9b8f",
    ("ServiceRegistered", "subjects"): ["episode.recorded", "episode.forgotten"],
    ("TurnFailed", "code"): "unavailable",
    ("UnregisterRequest", "name"): "dream",
    ("VerifyReply", "missing_in_atlas"): [],
    ("VerifyReply", "missing_in_trace"): [],
}
"""Values of one struct's field, also of an optional one that is worth showing."""


def example(kind: type[msgspec.Struct]) -> dict[str, Any]:
    """A valid message of that kind as plain JSON values, defaults included.

    Raises:
        msgspec.ValidationError: a field needs a value in the tables of this module.
    """
    message = msgspec.convert(_struct_values(kind), kind)
    payload: dict[str, Any] = msgspec.to_builtins(message)
    return payload


def _struct_values(kind: type[msgspec.Struct]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    struct_type = inspect.type_info(kind)
    assert isinstance(struct_type, inspect.StructType)
    for field in struct_type.fields:
        if (kind.__name__, field.name) in _BY_FIELD:
            values[field.encode_name] = _BY_FIELD[kind.__name__, field.name]
        elif field.required:
            values[field.encode_name] = _value(field.type, field.name)
    return values


def _value(kind: inspect.Type, name: str) -> Any:
    """A value that fits the type: the one that the table has for the field's name, or one made from the type."""
    match kind:
        case inspect.Metadata():
            return _value(kind.type, name)
        case inspect.StructType():
            return _struct_values(kind.cls)
        case inspect.LiteralType():
            return kind.values[0]
        case inspect.UnionType():
            return _value(next(option for option in kind.types if not isinstance(option, inspect.NoneType)), name)
        case inspect.RawType():
            return {}
    if name in _BY_NAME:
        return _BY_NAME[name]
    match kind:
        case inspect.VarTupleType() | inspect.ListType():
            return [_value(kind.item_type, name)]
        case inspect.DictType():
            return {}
        case inspect.BoolType():
            return True
        case inspect.IntType():
            return max(1, int(kind.ge or 0))
        case inspect.FloatType():
            return min(0.5, kind.le if kind.le is not None else 0.5)
        case inspect.BytesType():
            return "e30="
        case inspect.StrType():
            return name.replace("_", "-")
        case _:
            raise TypeError(f"no example for {kind} of '{name}'.")
