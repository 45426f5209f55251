"""Grammars of answers and of calls, tried with the small model's tokenizer."""

import json
from enum import Enum
from typing import Annotated, Any, Literal

import jsonschema
import pytest
from pydantic import BaseModel, Field

from agents.inference.json_schema.references import SchemaFault
from bus.metrics import DEGRADED
from schemas.chat import Tool, Tooling
from schemas.errors import InvalidInput
from tests.agents.inference.json_schema.writer import Writer


def make_tool(name: str, parameters: Any) -> Tool:
    return Tool(name=name, parameters=json.dumps(parameters))


def make_call(name: str, arguments: Any) -> str:
    return json.dumps({"name": name, "arguments": arguments}, separators=(",", ":"))


def accepts_arguments(writer: Writer, parameters: Any, arguments: Any) -> bool:
    grammar = writer.grammars.of_calls(Tooling(tools=(make_tool("f", parameters),), forced="f"))
    return writer.accepts(grammar, make_call("f", arguments))


MODE = {"Mode": {"enum": ["fast", "slow"]}}


@pytest.mark.parametrize(
    ("parameters", "good", "bad"),
    [
        ({"properties": {"mode": {"$ref": "#/$defs/Mode"}}, "required": ["mode"], "$defs": MODE}, "fast", "quick"),
        (
            {"properties": {"mode": {"$ref": "#/definitions/Mode"}}, "required": ["mode"], "definitions": MODE},
            "slow",
            "",
        ),
        ({"properties": {"mode": {"$ref": "#/properties/x"}, "x": {"const": 1}}, "required": ["mode"]}, 1, 2),
        ({"properties": {"mode": {"$ref": "#/$defs/a~1b~0%25"}}, "$defs": {"a/b~%": {"const": 1}}}, 1, 2),
        ({"properties": {"mode": {"$ref": "#"}}}, {"mode": {}}, {"x": 1}),
        ({"$ref": "#/$defs/P", "$defs": {**MODE, "P": {"properties": {"mode": {"$ref": "#/$defs/Mode"}}}}}, "fast", 1),
    ],
)
def test_references_of_a_tool_mean_the_same_in_its_call(writer: Writer, parameters: Any, good: Any, bad: Any) -> None:
    assert accepts_arguments(writer, {"type": "object", **parameters}, {"mode": good})
    assert not accepts_arguments(writer, {"type": "object", **parameters}, {"mode": bad})


def test_definitions_of_several_tools_may_share_a_name(writer: Writer) -> None:
    tools = tuple(
        make_tool(kind, {"properties": {"x": {"$ref": "#/$defs/X"}}, "$defs": {"X": {"type": kind}}})
        for kind in ("integer", "string")
    )
    grammar = writer.grammars.of_calls(Tooling(tools=tools, required=True))
    assert writer.accepts(grammar, make_call("integer", {"x": 1}))
    assert writer.accepts(grammar, make_call("string", {"x": "1"}))
    assert not writer.accepts(grammar, make_call("integer", {"x": "1"}))


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    lives: int = 9


class Dog(BaseModel):
    kind: Literal["dog"]
    tricks: set[str] = Field(default_factory=set, description="What it can do.")


class Leaf(BaseModel):
    """A node of a tree."""

    label: str
    children: list["Leaf"] = []


class PetOwner(BaseModel):
    name: str = Field(title="Name", examples=["Ada"])
    colour: Colour = Colour.RED
    favourite: Colour | None = Field(default=None, description="If any.")
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    tree: Leaf | None = None
    scores: dict[Colour, int] = {}
    notes: dict[str, Any] = {}
    spouse: "PetOwner | None" = None


PET_OWNER = {
    "name": "Ada",
    "colour": "blue",
    "favourite": None,
    "pet": {"kind": "dog", "tricks": ["sit"]},
    "tree": {"label": "a", "children": [{"label": "b"}, {"label": "c", "children": []}]},
    "scores": {"red": 1},
    "notes": {"any": [{"thing": 1}]},
    "spouse": {"name": "Bob", "pet": {"kind": "cat"}},
}


def test_nested_models_of_pydantic_are_called(writer: Writer) -> None:
    schema = PetOwner.model_json_schema()
    jsonschema.validate(PET_OWNER, schema)
    assert accepts_arguments(writer, schema, PET_OWNER)
    for wrong in (
        {**PET_OWNER, "extra": 1},
        {**PET_OWNER, "colour": "green"},
        {**PET_OWNER, "pet": {"kind": "cat", "tricks": []}},
        {**PET_OWNER, "tree": {"label": "a", "children": [{"label": "b", "more": 1}]}},
        {**PET_OWNER, "scores": {"green": 1}},
        {**PET_OWNER, "spouse": {"name": "Bob"}},
    ):
        assert not accepts_arguments(writer, schema, wrong), wrong


@pytest.mark.parametrize("parameters", ["{}", "true", '{"type": "object"}', '{"type": "object", "properties": {}}'])
def test_a_function_without_parameters_gets_an_empty_object(writer: Writer, parameters: str) -> None:
    grammar = writer.grammars.of_calls(Tooling(tools=(Tool(name="now", parameters=parameters),), forced="now"))
    call = '{"name":"now","arguments":{}}'
    assert writer.follow(grammar, call) == (call, True)
    assert '"type"' not in writer.follow(grammar, '{"name":"now","arguments":{"type":1}}')[0]


def test_a_function_that_takes_anything_gets_anything(writer: Writer) -> None:
    assert accepts_arguments(writer, {"type": "object", "additionalProperties": True}, {"x": [1]})


@pytest.mark.parametrize(("parallel", "forced"), [(True, None), (False, None), (True, "f")])
def test_calls_are_several_where_any_may_be_made_in_parallel(
    writer: Writer, parallel: bool, forced: str | None
) -> None:
    tools = (make_tool("f", {}), make_tool("g", {}))
    grammar = writer.grammars.of_calls(Tooling(tools=tools, required=True, forced=forced, parallel=parallel))
    several = f"{make_call('f', {})}\n{make_call('g', {})}\n{make_call('f', {})}"
    assert writer.accepts(grammar, make_call("f", {}))
    assert writer.accepts(grammar, make_call("g", {})) is (forced is None)
    assert writer.accepts(grammar, several) is (parallel and forced is None)


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"$ref": "https://example.org/x"}, "leads out"),
        ({"properties": {"x": {"$ref": "#/$defs/gone"}}}, "not there"),
        ({"properties": {"x": {"$ref": "#"}}, "required": ["x"]}, "no JSON that ends"),
        ({"type": "string"}, "incompatible"),
        ({"type": "nothing"}, "nothing"),
    ],
)
def test_a_tool_that_cannot_be_called_is_named(writer: Writer, parameters: Any, reason: str) -> None:
    tools = (make_tool("good", {}), make_tool("bad_one", parameters))
    with pytest.raises(InvalidInput, match=reason) as caught:
        writer.grammars.of_calls(Tooling(tools=tools, required=True))
    assert (caught.value.param, "'bad_one'" in caught.value.message) == ("tools", True)
    assert "\n" not in caught.value.message
    writer.grammars.of_calls(Tooling(tools=tools, forced="good"))


def test_a_tool_loses_what_no_grammar_holds_and_that_is_counted(writer: Writer) -> None:
    counter = DEGRADED.labels("grammar.passed_over")._value
    before = counter.get()
    parameters = {"properties": {"x": {"type": "array", "uniqueItems": True, "items": {"type": "integer"}}}}
    assert accepts_arguments(writer, parameters, {"x": [1, 2]})
    assert counter.get() > before
    with pytest.raises(InvalidInput, match="uniqueItems") as caught:
        writer.grammars.of_answer(json.dumps(parameters))
    assert caught.value.param == "response_format"
    writer.grammars.of_answer(json.dumps({**parameters, "x-guidance": {"lenient": True}}))


def test_a_schema_that_is_itself_or_something_else_is_the_other(writer: Writer) -> None:
    grammar = writer.grammars.of_answer('{"anyOf": [{"$ref": "#"}, {"type": "null"}]}')
    assert [writer.accepts(grammar, text) for text in ("null", "1")] == [True, False]


FLAG = {"type": "object", "properties": {"ok": {"type": "boolean"}, "n": {"type": "integer"}}, "required": ["ok", "n"]}


def test_json_is_compact_unless_its_schema_asks_for_white_space(writer: Writer) -> None:
    grammar = writer.grammars.of_answer(json.dumps(FLAG))
    assert writer.accepts(grammar, '{"ok":true,"n":1}')
    for text in ('{"ok": true,"n":1}', '{\n"ok":true,"n":1}', '{"ok":true,"n":1 }', '{"ok":true,"n":1}\n'):
        assert not set(" \n") & set(writer.follow(grammar, text)[0])
    spaced = writer.grammars.of_answer(json.dumps({**FLAG, "x-guidance": {"whitespace_flexible": True}}))
    assert writer.accepts(spaced, '{ "ok": true,\n"n": 1 }')
    tool = make_tool("f", {**FLAG, "x-guidance": {"whitespace_flexible": True}})
    call = writer.grammars.of_calls(Tooling(tools=(tool,), forced="f"))
    assert writer.accepts(call, '{"name":"f","arguments":{ "ok": true, "n": 1 }}')


@pytest.mark.parametrize("options", [5, {"nothing": 1}])
def test_options_that_are_none_are_refused(writer: Writer, options: Any) -> None:
    with pytest.raises(InvalidInput) as caught:
        writer.grammars.of_answer(json.dumps({**FLAG, "x-guidance": options}))
    assert caught.value.param == "response_format"


@pytest.mark.parametrize("schema", ["{", "5", '{"$ref": "#"}', '{"type": "nothing"}', "[" * 100_000])
def test_a_schema_that_no_answer_can_follow_is_refused(writer: Writer, schema: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        writer.grammars.of_answer(schema)
    assert (caught.value.param, "\n" in caught.value.message) == ("response_format", False)


OPEN = ['{"type": "object"}', "{}", '{"type": "object", "properties": {"a": true}, "additionalProperties": true}']


@pytest.mark.parametrize("schema", OPEN)
def test_a_key_comes_once_in_an_open_object(writer: Writer, schema: str) -> None:
    grammar = writer.grammars.of_answer(schema)
    assert writer.accepts(grammar, '{"a":1,"b":{"a":1},"c":[{"a":1},{"a":2}],"aa":3}')
    assert writer.follow(grammar, '{"a":1,"a":2}') == ('{"a":1,"a', False)
    assert writer.follow(grammar, '{"x":1,"b":{"é":1,"é":2}}') == ('{"x":1,"b":{"é":1,"é', False)
    assert writer.follow(grammar, '{"x":[{"q":"x","q":2}]}') == ('{"x":[{"q":"x","q', False)


def test_a_key_comes_once_however_an_open_answer_is_drawn(writer: Writer) -> None:
    schema = {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 4, "maxProperties": 4}
    grammar = writer.grammars.of_answer(json.dumps(schema))
    ended = 0
    for seed in range(20):
        text, is_end = writer.wander(grammar, seed=seed, liked=("a", '"', '":', ",", "1", "}"), tokens=120)
        ended += is_end
        if is_end:
            pairs = json.loads(text, object_pairs_hook=lambda pairs: [key for key, _ in pairs])
            assert len(set(pairs)) == len(pairs) == 4
    assert ended > 10


def test_a_pattern_that_allows_no_further_key_is_counted_and_not_a_dead_end(writer: Writer) -> None:
    counter = DEGRADED.labels("grammar.repeated_key")._value
    before = counter.get()
    schema = {"type": "object", "patternProperties": {"^[a]$": {"type": "integer"}}, "minProperties": 2}
    assert writer.accepts(writer.grammars.of_answer(json.dumps(schema)), '{"a":1,"a":2}')
    assert counter.get() == before + 1
    few_names = writer.grammars.of_answer('{"patternProperties": {"^(a|b)$": {"type": "integer"}}}')
    assert writer.accepts(few_names, '{"a":1,"b":2}')
    assert writer.follow(few_names, '{"a":1,"a":2}') == ('{"a":1,"', False)


def test_a_fault_of_a_schema_is_a_value_error() -> None:
    assert issubclass(SchemaFault, ValueError)
