"""What a schema says is kept, what it leaves open is closed, and what never ends is gone."""

import json
from typing import Any

import jsonschema
import pytest

from agents.inference.json_schema.normal_form import MAX_ALTERNATIVES, normalize_schema
from agents.inference.json_schema.references import SchemaFault

OBJECT = "object"
NAMED = {"type": OBJECT, "properties": {"a": {"type": "integer"}}}
TREE = {"type": OBJECT, "properties": {"value": {"type": "integer"}, "next": {"$ref": "#"}}, "required": ["value"]}


def holds(schema: Any, value: Any) -> bool:
    """Whether ``value`` follows the normal form of the schema."""
    return jsonschema.Draft202012Validator(normalize_schema(schema).schema).is_valid(value)


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (NAMED, [{}, {"a": 1}], [{"b": 1}, {"a": "x"}]),
        ({"properties": {"a": True}}, [{"a": 1}], [{"b": 1}, 3]),
        ({"type": OBJECT}, [{}, {"anything": {"at": ["all"]}}], [[]]),
        ({"type": OBJECT, "properties": {}}, [{}], [{"a": 1}]),
        ({"type": [OBJECT, "null"], "properties": {"a": True}}, [None, {"a": 1}], [{"b": 1}, 3]),
        ({**NAMED, "additionalProperties": True}, [{"b": 1}], [{"a": "x"}]),
        ({**NAMED, "additionalProperties": {"type": "null"}}, [{"b": None}], [{"b": 1}]),
        ({**NAMED, "unevaluatedProperties": True}, [{"b": 1}], []),
        ({**NAMED, "unevaluatedProperties": False}, [{"a": 1}], [{"b": 1}]),
        ({"type": OBJECT, "patternProperties": {"^x_": {"type": "integer"}}}, [{"x_a": 1}], [{"y": 1}, {"x_a": ""}]),
        ({"type": OBJECT, "patternProperties": {"^(a|b)$": {"type": "integer"}}}, [{"a": 1, "b": 2}], [{"c": 1}]),
        ({**NAMED, "required": ["b"]}, [{"b": [1]}], [{}, {"b": 1, "c": 1}]),
        ({"type": "array", "items": NAMED}, [[{"a": 1}]], [[{"b": 1}]]),
        ({"type": "array", "prefixItems": [NAMED], "items": False}, [[{"a": 1}]], [[{"b": 1}], [{}, 1]]),
        ({"type": OBJECT, "additionalProperties": NAMED}, [{"x": {"a": 1}}], [{"x": {"b": 1}}]),
        ({"enum": [{"z": 1}, 2]}, [{"z": 1}, 2], [{"y": 1}]),
        ({"properties": {"a": {"const": {"z": 1}}}}, [{"a": {"z": 1}}], [{"a": {}}]),
        (
            {"properties": {"properties": NAMED, "$ref": {"type": "string"}, "enum": {"type": "integer"}}},
            [{"properties": {"a": 1}, "$ref": "#", "enum": 1}],
            [{"x": 1}, {"properties": {"b": 1}}],
        ),
        (
            {"type": OBJECT, "propertyNames": {"enum": ["a", "b"]}, "additionalProperties": {"type": "integer"}},
            [{}, {"a": 1, "b": 2}],
            [{"c": 1}, {"a": "x"}],
        ),
        (
            {"propertyNames": {"$ref": "#/$defs/n"}, "additionalProperties": True, "$defs": {"n": {"pattern": "^x"}}},
            [{"xa": 1}],
            [{"a": 1}],
        ),
    ],
)
def test_objects_that_name_their_properties_are_closed_unless_they_say_otherwise(
    schema: Any, good: list[Any], bad: list[Any]
) -> None:
    assert [value for value in good if not holds(schema, value)] == []
    assert [value for value in bad if holds(schema, value)] == []


BASE = {"$defs": {"base": {"type": OBJECT, "properties": {"id": {"type": "integer"}}, "required": ["id"]}}}


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (
            {"allOf": [{"properties": {"a": True}}, {"properties": {"b": True}}]},
            [{"a": 1, "b": 2}],
            [{"c": 1}, {"a": 1, "b": 2, "c": 3}],
        ),
        (
            {**BASE, "allOf": [{"$ref": "#/$defs/base"}], "properties": {"own": True}, "required": ["own"]},
            [{"id": 1, "own": 2}],
            [{"own": 2}, {"id": 1, "own": 2, "c": 3}],
        ),
        (
            {**BASE, "$ref": "#/$defs/base", "properties": {"id": {"minimum": 5}}},
            [{"id": 5}],
            [{"id": 4}, {"id": 5, "x": 1}],
        ),
        (
            {"properties": {"a": True}, "anyOf": [{"properties": {"b": True}}, {"properties": {"c": True}}]},
            [{"a": 1, "b": 2}, {"a": 1, "c": 2}],
            [{"b": 1, "c": 2}, {"d": 1}],
        ),
        (
            {"properties": {"a": True, "b": True}, "anyOf": [{"required": ["a"]}, {"required": ["b"]}]},
            [{"a": 1}, {"b": 1}, {"a": 1, "b": 1}],
            [{}, {"a": 1, "c": 1}],
        ),
        (
            {"anyOf": [{**NAMED, "additionalProperties": True}, {"properties": {"c": True}, "required": ["c"]}]},
            [{"a": 1, "z": 1}, {"c": 1}],
            [{"a": "x", "z": 1}],
        ),
        (
            {"properties": {"a": True}, "allOf": [{"anyOf": [{"properties": {"b": True}}, {"type": "null"}]}]},
            [{"a": 1, "b": 1}],
            [{"c": 1}],
        ),
        ({"allOf": [NAMED, {"additionalProperties": True}]}, [{"a": 1, "b": 2}], [{"a": "x"}]),
        ({"allOf": [NAMED, {"unevaluatedProperties": False}]}, [{"a": 1}], [{"b": 1}]),
        (
            {"allOf": [{**NAMED, "additionalProperties": {"type": "null"}}, {"properties": {"b": True}}]},
            [{"b": None}],
            [{"b": 1}],
        ),
        (
            {"allOf": [{"properties": {"p": {"properties": {"a": True}}}}, {"properties": {"p": {"required": ["b"]}}}]},
            [{"p": {"a": 1, "b": 2}}],
            [{"p": {"a": 1}}, {"p": {"b": 1, "c": 1}}],
        ),
        (
            {
                "allOf": [
                    {"properties": {name: True}, "required": [name], "additionalProperties": False}
                    for name in ("a", "b")
                ]
            },
            [{"a": 1, "b": 2}],
            [{"a": 1}, {"a": 1, "b": 2, "c": 3}],
        ),
        (
            {"properties": {"k": True}, "additionalProperties": False}
            | {"oneOf": [{"properties": {"a": True}, "required": ["a"]}, {"required": ["k"]}]},
            [{"k": 1, "a": 2}, {"k": 1}],
            [{"k": 1, "b": 1}],
        ),
        ({"allOf": [{**NAMED, "additionalProperties": False}, {"properties": {"b": True}}]}, [{"a": 1}], [{"b": 1}]),
        ({"anyOf": [NAMED, {"type": "null"}]}, [None, {"a": 1}], [{"b": 1}, "x"]),
        ({"oneOf": [NAMED, {"type": "string"}]}, ["x", {"a": 1}], [{"b": 1}]),
        ({"type": "integer", "minimum": 1, "allOf": [{"minimum": 3}, {"maximum": 5}]}, [3, 5], [2, 6]),
        ({"allOf": [True, NAMED]}, [{"a": 1}], [{"b": 1}]),
    ],
)
def test_schemas_of_one_object_are_closed_together(schema: Any, good: list[Any], bad: list[Any]) -> None:
    assert [value for value in good if not holds(schema, value)] == []
    assert [value for value in bad if holds(schema, value)] == []


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"allOf": [{"$ref": "#"}]},
        {"allOf": [{"$ref": "#"}, {"type": OBJECT}]},
        {"anyOf": [{"$ref": "#"}]},
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        {"type": OBJECT, "properties": {"x": {"$ref": "#"}}, "required": ["x"]},
        {"properties": {"x": {"type": "array", "items": {"$ref": "#"}, "minItems": 1}}, "required": ["x"]},
        {"type": "array", "items": {"$ref": "#"}, "minItems": 1},
        {"type": "array", "prefixItems": [{"type": "null"}, {"$ref": "#"}], "minItems": 2},
        {"type": OBJECT, "additionalProperties": {"$ref": "#"}, "minProperties": 1},
        {"type": OBJECT, "additionalProperties": {"$ref": "#"}, "required": ["x"]},
        {"type": OBJECT, "properties": {"x": {"$ref": "#"}}, "allOf": [{"required": ["x"]}]},
        {"anyOf": [{"properties": {"x": {"$ref": "#"}}, "required": ["x"]}, {"items": {"$ref": "#"}, "minItems": 1}]},
        False,
    ],
)
def test_a_schema_that_never_ends_is_refused(schema: Any) -> None:
    with pytest.raises(SchemaFault, match="no JSON that ends"):
        normalize_schema(schema)


@pytest.mark.parametrize(
    ("schema", "good", "bad"),
    [
        (TREE, [{"value": 1}, {"value": 1, "next": {"value": 2, "next": {"value": 3}}}], [{"next": {"value": 1}}]),
        (TREE, [], [{"value": 1, "next": {"value": 2, "other": 3}}]),
        ({"type": "array", "items": {"$ref": "#"}}, [[], [[], [[]]]], [[1]]),
        ({"additionalProperties": {"$ref": "#"}}, [{}, {"a": {"b": {}}}], [{"a": 1}]),
        (
            {"properties": {"a": True, "endless": {"$ref": "#/$defs/e"}}, "$defs": {"e": {"$ref": "#/$defs/e"}}},
            [{"a": 1}],
            [{"endless": 1}, {"endless": {}}],
        ),
        (
            {"anyOf": [{"type": "null"}, {"properties": {"x": {"$ref": "#/$defs/e"}}, "required": ["x"]}]}
            | {"$defs": {"e": {"type": "array", "items": {"$ref": "#/$defs/e"}, "minItems": 1}}},
            [None],
            [{"x": [[]]}],
        ),
        (
            {"properties": {"child": {"$ref": "#", "description": "itself", "minProperties": 0}, "v": True}},
            [{"child": {"child": {"v": 1}}}],
            [{"child": {"w": 1}}],
        ),
    ],
)
def test_a_schema_may_contain_itself(schema: Any, good: list[Any], bad: list[Any]) -> None:
    assert [value for value in good if not holds(schema, value)] == []
    assert [value for value in bad if holds(schema, value)] == []


def test_two_schemas_of_one_tree_are_merged_to_its_leaves() -> None:
    one, two = ({"properties": {"child": {"$ref": f"#/$defs/{name}"}, name: True}} for name in ("one", "two"))
    schema = {"allOf": [{"$ref": "#/$defs/one"}, {"$ref": "#/$defs/two"}], "$defs": {"one": one, "two": two}}
    assert holds(schema, {"child": {"child": {"one": 1, "two": 2}}, "one": 1})
    assert not holds(schema, {"child": {"child": {"three": 1}}})


@pytest.mark.parametrize(
    ("schema", "words"),
    [
        ({"type": "array", "uniqueItems": True}, ["uniqueItems"]),
        ({"type": "array", "uniqueItems": False}, []),
        ({"not": {"type": "null"}, "if": True}, ["if", "not"]),
        ({"properties": {"a": {"type": "string", "pattern": "^(?!x)"}}}, ["pattern (?= or ?!)"]),
        ({"propertyNames": {"minLength": 3}, "type": OBJECT}, ["propertyNames"]),
        ({"type": "string", "format": "password", "x-mine": 1, "discriminator": {}}, []),
    ],
)
def test_keywords_that_no_grammar_holds_are_named(schema: Any, words: list[str]) -> None:
    assert normalize_schema(schema).passed_over == tuple(words)


@pytest.mark.parametrize(
    ("schema", "reason"),
    [
        (5, "a schema is an object"),
        ({"properties": {"a": [1]}}, "not a list"),
        ({"properties": [1]}, "'properties' is an object"),
        ({"anyOf": {}}, "'anyOf' is a list"),
        ({"required": "a"}, "'required' is a list"),
        ({"allOf": [{"anyOf": [{"const": number} for number in range(7)]} for _ in range(3)]}, "alternatives"),
    ],
)
def test_a_fault_of_the_schema_is_named(schema: Any, reason: str) -> None:
    assert MAX_ALTERNATIVES < 7**3
    with pytest.raises(SchemaFault, match=reason):
        normalize_schema(schema)


def test_a_schema_that_is_nested_too_deeply_is_refused() -> None:
    with pytest.raises(SchemaFault, match="deeply"):
        normalize_schema(json.loads('{"items":' * 400 + "true" + "}" * 400))


def test_the_schema_itself_stays_as_it_was() -> None:
    schema = {**TREE, "patternProperties": {"^(a|b)$": True}, "propertyNames": {"enum": ["value", "next", "a"]}}
    before = json.dumps(schema)
    normalize_schema(schema)
    assert json.dumps(schema) == before
