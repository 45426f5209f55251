"""Takes out of a normal form what no JSON that ends can follow, because it goes on to contain itself."""

from collections.abc import Mapping
from typing import Any

PREFIX = "#/$defs/"


def keep_finite(root: Any, definitions: Mapping[str, Any]) -> dict[str, Any] | None:
    """The schema ``root``, whose references are names of ``definitions``, with those definitions in it, and without
    properties, items and alternatives that never end; None when nothing is left."""
    finite: set[str] = set()
    while more := {name for name, schema in definitions.items() if name not in finite and _can_end(schema, finite)}:
        finite |= more
    if not _can_end(root, finite):
        return None
    schema = _prune(root, finite)
    definitions_left = {name: _prune(definitions[name], finite) for name in definitions if name in finite}
    return {**(schema if isinstance(schema, dict) else {}), **({"$defs": definitions_left} if definitions_left else {})}


def _can_end(schema: Any, finite: set[str]) -> bool:
    """Whether a value that ends can follow the schema, by what is known of the definitions."""
    if isinstance(schema, bool):
        return schema
    if "$ref" in schema:
        return schema["$ref"].removeprefix(PREFIX) in finite
    for keyword in ("anyOf", "oneOf"):
        if keyword in schema:
            return any(_can_end(alternative, finite) for alternative in schema[keyword])
    if {"enum", "const"} & schema.keys():
        return True
    kinds = schema.get("type", "null")
    checks = {"object": _object_can_end, "array": _array_can_end}
    return any(
        kind not in checks or checks[kind](schema, finite) for kind in (kinds if isinstance(kinds, list) else [kinds])
    )


def _object_can_end(schema: Mapping[str, Any], finite: set[str]) -> bool:
    properties, patterns = schema.get("properties", {}), schema.get("patternProperties", {})
    others = [*patterns.values(), schema.get("additionalProperties", True)]
    unlimited = any(_can_end(other, finite) for other in others)
    usable = [name for name, value in properties.items() if _can_end(value, finite)]
    missing = [name for name in schema.get("required", ()) if name not in usable]
    if any(name in properties or not unlimited for name in missing):
        return False
    return unlimited or len(usable) >= schema.get("minProperties", 0)


def _array_can_end(schema: Mapping[str, Any], finite: set[str]) -> bool:
    items, rest = schema.get("prefixItems", []), schema.get("items", True)
    if isinstance(rest, list):
        items, rest = rest, schema.get("additionalItems", True)
    least = schema.get("minItems", 0)
    return all(_can_end(item, finite) for item in items[:least]) and (least <= len(items) or _can_end(rest, finite))


def _prune(schema: Any, finite: set[str]) -> Any:
    if isinstance(schema, bool) or not _can_end(schema, finite):
        return schema if isinstance(schema, bool) else False
    pruned = dict(schema)
    for keyword, value in schema.items():
        if keyword in ("properties", "patternProperties"):
            pruned[keyword] = {name: _prune(item, finite) for name, item in value.items()}
        elif keyword in ("anyOf", "oneOf"):
            pruned[keyword] = [_prune(item, finite) for item in value if _can_end(item, finite)]
        elif keyword in ("items", "prefixItems", "additionalItems") and isinstance(value, list):
            pruned[keyword] = [_prune(item, finite) for item in value]
        elif keyword in ("items", "additionalItems", "additionalProperties"):
            pruned[keyword] = _prune(value, finite)
    return pruned
