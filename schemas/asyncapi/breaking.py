"""What a change of the contract breaks, between two AsyncAPI documents that :mod:`schemas.asyncapi.document` wrote.

Two promises are compared. What others send to the runtime (incoming) must still be accepted: no field becomes required,
and no value that was accepted is refused. What the runtime sends (outgoing) must still be understood by a reader that
ignores fields it does not know: no field is removed, and no field takes a new kind of value.
"""

from collections.abc import Iterator
from typing import Any

from schemas.asyncapi.references import find_reachable

Schema = dict[str, Any]

_INCOMING = ("QueryReceived", "TurnCancelled", "AnswerTaken", "Job")
"""Events that other services publish, too."""

_UPPER_BOUNDS = ("maximum", "maxLength", "maxItems", "maxProperties", "exclusiveMaximum")
_LOWER_BOUNDS = ("minimum", "minLength", "minItems", "minProperties", "exclusiveMinimum")


def breaking_changes(old: Schema, new: Schema) -> list[str]:
    """Every breaking change from ``old`` to ``new``, each in one line that names channel, message or field."""
    changes = list(_compare_channels(old["channels"], new["channels"]))
    old_schemas, new_schemas = old["components"]["schemas"], new["components"]["schemas"]
    messages, requests = set(old["components"]["messages"]), _requests(old)
    incoming = find_reachable(old_schemas, messages & set(_INCOMING) | requests)
    outgoing = find_reachable(old_schemas, messages - requests)
    for name, schema in old_schemas.items():
        if name in new_schemas:
            changes += _compare_schemas(
                schema, new_schemas[name], name, incoming=name in incoming, outgoing=name in outgoing
            )
        elif name in incoming | outgoing:
            changes.append(f"{name} is gone")
    return sorted(set(changes))


def _compare_channels(old: Schema, new: Schema) -> Iterator[str]:
    for name, channel in old.items():
        if name not in new:
            yield f"channel {name} ({channel['address']}) is gone"
            continue
        if channel["address"] != new[name]["address"]:
            yield f"channel {name} moved from {channel['address']} to {new[name]['address']}"
        for message in sorted(set(channel["messages"]) - set(new[name]["messages"])):
            yield f"channel {name} no longer carries {message}"


def _requests(document: Schema) -> set[str]:
    """Names of the messages that carry requests to services."""
    operations = document["operations"].items()
    service_channels = [
        operation["channel"]["$ref"].rsplit("/", 1)[-1] for name, operation in operations if "serve" in name[:5]
    ]
    return {message for channel in service_channels for message in document["channels"][channel]["messages"]}


def _compare_schemas(old: Schema, new: Schema, path: str, *, incoming: bool, outgoing: bool) -> Iterator[str]:
    before, after = _kinds(old), _kinds(new)
    if incoming and (lost_kinds := before - after):
        yield f"{path} no longer takes {', '.join(sorted(lost_kinds))}"
    if outgoing and (new_kinds := after - before):
        yield f"{path} may now be {', '.join(sorted(new_kinds))}"
    if incoming:
        yield from _compare_bounds(old, new, path)
    yield from _compare_fields(old, new, path, incoming=incoming, outgoing=outgoing)
    for inner in ("items", "additionalProperties"):
        if isinstance(old.get(inner), dict) and isinstance(new.get(inner), dict):
            yield from _compare_schemas(old[inner], new[inner], f"{path}[]", incoming=incoming, outgoing=outgoing)


def _compare_fields(old: Schema, new: Schema, path: str, *, incoming: bool, outgoing: bool) -> Iterator[str]:
    before, after = old.get("properties", {}), new.get("properties", {})
    for name, schema in before.items():
        if name not in after:
            yield f"{path}.{name} is gone"
        else:
            yield from _compare_schemas(schema, after[name], f"{path}.{name}", incoming=incoming, outgoing=outgoing)
    if incoming:
        for name in sorted(set(new.get("required", ())) - set(old.get("required", ()))):
            yield f"{path}.{name} is required now"


def _compare_bounds(old: Schema, new: Schema, path: str) -> Iterator[str]:
    for key in _UPPER_BOUNDS:
        if key in new and new[key] < old.get(key, float("inf")):
            yield f"{path}: {key} {new[key]} is tighter than {old.get(key, 'none')}"
    for key in _LOWER_BOUNDS:
        if key in new and new[key] > old.get(key, float("-inf")):
            yield f"{path}: {key} {new[key]} is tighter than {old.get(key, 'none')}"
    if new.get("pattern") not in (None, old.get("pattern")):
        yield f"{path}: the pattern is {new['pattern']}, was {old.get('pattern', 'none')}"


def _kinds(schema: Schema) -> set[str]:
    """What a value may be: types, names of schemas, or literal values."""
    if "anyOf" in schema:
        return {kind for option in schema["anyOf"] for kind in _kinds(option)}
    if "enum" in schema:
        return {repr(value) for value in schema["enum"]}
    if "$ref" in schema:
        return {str(schema["$ref"]).rsplit("/", 1)[-1]}
    return {str(schema["type"])} if "type" in schema else set()
