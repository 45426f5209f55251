"""Grammars, in llguidance's Lark syntax, of an answer that follows a JSON Schema and of calls of tools."""

import json
from collections.abc import Sequence
from typing import Any

from agents.inference.json_schema.normal_form import normalize_schema
from agents.inference.json_schema.references import SchemaFault
from bus.metrics import count_degraded
from schemas.chat import Tool

COMPACT = {"whitespace_flexible": False, "coerce_one_of": True}
"""Without white space, which a small model writes until its tokens are spent. A schema's own ``x-guidance`` wins."""
ARGUMENTS = {"type": "object", "properties": {}}
"""What the arguments of a call are besides what the tool says: an object, and an empty one when the tool names none."""


def answer_grammar(schema: str) -> str:
    """The grammar of one JSON text that follows the schema.

    Raises:
        SchemaFault: no grammar can.
    """
    return f"start: {_json_block(_parse(schema))}"


def calls_grammar(tools: Sequence[Tool], *, several: bool) -> str:
    """The grammar of a call of one of the tools, with ``several`` of one or more calls, each on a line of its own.

    Raises:
        SchemaFault: no grammar can follow a tool's parameters; the text names the tool.
    """
    rules = ['start: call ("\\n" call)*' if several else "start: call"]
    rules.append("call: " + " | ".join(f"call_{number}" for number in range(len(tools))))
    for number, tool in enumerate(tools):
        opening = json.dumps(f'{{"name":"{tool.name}","arguments":')
        rules.append(f'call_{number}: {opening} arguments_{number} "}}"')
        rules.append(f"arguments_{number}: {_arguments_block(tool)}")
    return "\n".join(rules)


def check_schema(schema: str) -> None:
    """Refuse a schema that no answer can be made to follow, whoever follows it.

    Raises:
        SchemaFault: why.
    """
    normalize_schema(_parse(schema))


def arguments_grammar(tool: Tool) -> str:
    """The grammar of the arguments of one tool.

    Raises:
        SchemaFault: no grammar can follow them; the text names the tool.
    """
    return f"start: {_arguments_block(tool)}"


def _arguments_block(tool: Tool) -> str:
    try:
        return _json_block(_parse(tool.parameters), ARGUMENTS, lenient=True)
    except SchemaFault as fault:
        raise SchemaFault(f"the parameters of '{tool.name}': {fault}") from fault


def _json_block(schema: Any, *beside: dict[str, Any], lenient: bool = False) -> str:
    """The schema as a block of the grammar. A ``lenient`` one passes over, and counts, what a grammar cannot hold."""
    options = schema.get("x-guidance", {}) if isinstance(schema, dict) else {}
    if not isinstance(options, dict):
        raise SchemaFault("'x-guidance' is an object")
    options = {**COMPACT, "lenient": lenient, **options}
    normal = normalize_schema(schema, *beside)
    if normal.passed_over and not options["lenient"]:
        raise SchemaFault(f"{', '.join(normal.passed_over)}: no grammar holds it; leave it out")
    if normal.passed_over:
        count_degraded("grammar.passed_over", f"no grammar holds {', '.join(normal.passed_over)}")
    return f"%json {json.dumps({**normal.schema, 'x-guidance': options})}"


def _parse(schema: str) -> Any:
    try:
        return json.loads(schema)
    except ValueError as error:
        raise SchemaFault(f"it is no JSON: {error}") from error
    except RecursionError:
        raise SchemaFault("it is nested too deeply") from None
