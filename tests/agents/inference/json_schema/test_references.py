"""References within a schema, as RFC 6901 and the drafts of JSON Schema have them."""

from typing import Any

import pytest

from agents.inference.json_schema.references import References, SchemaFault

SCHEMA: dict[str, Any] = {
    "$id": "https://example.org/person.json",
    "$defs": {
        "plain": {"const": 1},
        "a/b~c%d e": {"const": 2},
        "list": {"prefixItems": [{"const": 3}]},
        "anchored": {"$anchor": "here", "const": 4},
        "inner": {"$id": "inner.json", "$defs": {"deep": {"const": 5}}, "properties": {"x": {"$ref": "#/$defs/deep"}}},
    },
    "components": {"schemas": {"x": {"const": 6, "items": {"$ref": "#/$defs/plain"}}}},
}


@pytest.mark.parametrize(
    ("reference", "value"),
    [
        ("#/$defs/plain", 1),
        ("#/%24defs/plain", 1),
        ("#/$defs/a~1b~0c%25d%20e", 2),
        ("#/$defs/list/prefixItems/0", 3),
        ("#here", 4),
        ("https://example.org/person.json#/$defs/plain", 1),
        ("person.json#here", 4),
        ("inner.json#/$defs/deep", 5),
        ("#/$defs/inner/$defs/deep", 5),
        ("#/components/schemas/x", 6),
    ],
)
def test_a_reference_leads_to_its_place(reference: str, value: int) -> None:
    node = {"$ref": reference}
    assert References({**SCHEMA, "properties": {"here": node}}).follow(node)["const"] == value


def test_the_whole_schema_is_a_place_too() -> None:
    node = {"$ref": "#"}
    schema = {"properties": {"x": node}}
    assert References(schema).follow(node) is schema


def test_a_reference_is_read_where_it_stands() -> None:
    references = References(SCHEMA)
    assert references.follow(SCHEMA["$defs"]["inner"]["properties"]["x"]) == {"const": 5}
    unnamed = references.follow({"$ref": "https://example.org/person.json#/components/schemas/x"})
    assert references.follow(unnamed["items"]) == {"const": 1}


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("#/$defs/gone", "not there"),
        ("#/$defs/list/prefixItems/1", "not there"),
        ("#/$defs/list/prefixItems/-1", "not there"),
        ("#nowhere", "not there"),
        ("https://example.org/other.json", "leads out"),
        ("other.json#/x", "leads out"),
        ("file:///etc/passwd", "leads out"),
        (5, "is a text"),
    ],
)
def test_a_reference_that_leads_nowhere_is_named(reference: Any, reason: str) -> None:
    node = {"$ref": reference}
    with pytest.raises(SchemaFault, match=reason):
        References({**SCHEMA, "properties": {"here": node}}).follow(node)


def test_data_in_a_schema_is_no_schema() -> None:
    References({"const": {"$id": "x", "$anchor": 5}, "default": {"$ref": 7}, "properties": {"$id": {"type": "string"}}})
