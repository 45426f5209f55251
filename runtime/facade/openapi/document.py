"""Puts the document together: paths and parameters come from FastAPI, bodies and replies from the structs."""

import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
from fastapi.dependencies.models import Dependant
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from msgspec import Struct
from starlette.routing import BaseRoute

from runtime.facade.dependencies import find_owner, find_tenant, require_admin_key
from runtime.facade.errors import speaks_anthropic
from runtime.facade.openapi import parts, refusals
from runtime.facade.openapi.bodies import FIELDS, UNSERVED
from runtime.facade.openapi.operations import OPERATIONS, Operation
from runtime.facade.openapi.parts import Json, refer
from runtime.facade.routes.adapters import require_administrator

DESCRIPTION = """\
OpenAI's and Anthropic's interfaces over turns on the bus, and what belongs to them.

Every path is served without `/v1`, too, and with a slash behind it; OPTIONS is served everywhere. Fields that a body's
schema does not have are passed over and counted, and numbers may be written as texts. What is refused before it comes
to a route (no HTTP, another path or method, headers that are too long) has the shape of all errors.
"""

_ROLE = re.compile(r":\w+:`~?([\w.]+)`")
"""A reference in our docstrings, which Markdown does not know."""


def encode_document(routes: Iterable[BaseRoute]) -> bytes:
    """The document as it is served and kept."""
    return msgspec.json.format(msgspec.json.encode(document(routes)), indent=2) + b"\n"


def document(routes: Iterable[BaseRoute]) -> Json:
    """The OpenAPI 3.1 document of these routes."""
    described = [route for route in routes if isinstance(route, APIRoute) and route.include_in_schema]
    whole = get_openapi(title="micro-kiki", version="1", description=DESCRIPTION, routes=described)
    for route in described:
        path_item = whole["paths"][route.path_format]
        for method in (method.lower() for method in sorted(route.methods or ())):
            path_item[method] = _describe_route(route, path_item[method].get("parameters", []))
        if "get" in path_item:
            path_item["head"] = _describe_head(path_item["get"])
    whole["components"] = {
        "schemas": _describe_structs(),
        "responses": refusals.describe_refusals(),
        "parameters": parts.PARAMETERS,
        "headers": parts.HEADERS,
        "securitySchemes": parts.KEYS,
    }
    tidy: Json = _tidy(whole)
    return tidy


def _describe_route(route: APIRoute, known_parameters: list[Json]) -> Json:
    """One operation; ``known_parameters`` are those that FastAPI knows."""
    operation, dependencies = OPERATIONS[route.endpoint], set(_find_dependencies(route.dependant))
    summary, _, rest = (inspect.getdoc(route.endpoint) or "").partition("\n")
    parameters = [_describe_parameter(parameter) for parameter in known_parameters]
    parameters += refer("parameters", *_name_parameters(operation, dependencies))
    security = _name_keys(dependencies)
    body = {"requestBody": {"required": True, "content": _json(operation.body)}} if operation.body else {}
    codes = {*refusals.OF_ROUTES, *operation.errors}
    codes |= set(refusals.OF_PARAMETERS) if len(parameters) > len(parts.OF_ALL) else set()
    codes |= set(refusals.OF_KEYS) if security else set()
    codes |= set(refusals.OF_BODIES) if body else set()
    shape = "anthropic" if speaks_anthropic(route.path) else "openai"
    return {
        "operationId": route.name,
        "summary": summary,
        "description": rest.partition("Raises:")[0].strip(),
        "parameters": parameters,
        **body,
        "responses": {"200": _describe_reply(operation), **refusals.name_refusals(codes, shape=shape)},
        "security": security,
    }


def _find_dependencies(dependant: Dependant) -> Iterator[Callable[..., Any]]:
    """What FastAPI calls before a route."""
    for inner in dependant.dependencies:
        if inner.call is not None:
            yield inner.call
        yield from _find_dependencies(inner)


def _describe_parameter(parameter: Json) -> Json:
    schema = {key: value for key, value in parameter["schema"].items() if key != "title"}
    return {**parameter, "description": parts.DESCRIPTIONS[parameter["name"]], "schema": schema}


def _name_parameters(operation: Operation, dependencies: set[Callable[..., Any]]) -> Iterator[str]:
    """The parameters that a route reads by itself."""
    if find_owner in dependencies:
        yield from parts.OF_BODILESS_USERS
    if operation.is_turn:
        yield from (*parts.OF_USERS, *parts.OF_TURNS)
    yield from parts.OF_ALL


def _name_keys(dependencies: set[Callable[..., Any]]) -> list[Json]:
    """The keys that a route asks for; only the administrator's is asked for on every server."""
    if not dependencies & {find_tenant, require_admin_key, require_administrator}:
        return []
    keys: list[Json] = [{name: []} for name in parts.KEYS]
    return keys if require_administrator in dependencies else [*keys, {}]


def _describe_reply(operation: Operation) -> Json:
    names = (*parts.OF_REPLIES, *(parts.OF_ANSWERS if operation.is_turn else ()))
    content = _json(*operation.reply) if operation.reply else {operation.text: {"schema": {"type": "string"}}}
    if operation.events:
        content["text/event-stream"] = {"schema": {"type": "string", "description": operation.events}}
    return {
        "description": (operation.reply[0].__doc__ if operation.reply else None) or operation.text,
        "headers": dict(zip(names, refer("headers", *names), strict=True)),
        "content": content,
    }


def _json(*structs: type[Struct]) -> Json:
    references = refer("schemas", *(struct.__name__ for struct in structs))
    return {"application/json": {"schema": references[0] if len(references) == 1 else {"anyOf": references}}}


def _describe_head(operation: Json) -> Json:
    """The same without the bodies of the replies."""
    responses = {
        status: {key: value for key, value in reply.items() if key in ("description", "headers")}
        for status, reply in operation["responses"].items()
    }
    return {**operation, "operationId": f"{operation['operationId']}_head", "responses": responses}


def _describe_structs() -> Json:
    """The schemas of all bodies and replies."""
    structs: set[type[Struct]] = set(refusals.SHAPES.values())
    for operation in OPERATIONS.values():
        structs.update(operation.reply, () if operation.body is None else (operation.body,))
    kinds = [*FIELDS.values(), *sorted(structs, key=lambda struct: struct.__name__)]
    types, schemas = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    fields = dict(zip(FIELDS, types[: len(FIELDS)], strict=True))
    fields |= {field: {"enum": list(values), "description": "Not served."} for field, values in UNSERVED.items()}
    for (struct, name), schema in fields.items():
        schemas[struct.__name__]["properties"][name] = schema
    return dict(sorted(schemas.items()))


def _tidy(value: Any) -> Any:
    """Descriptions as Markdown, as they are docstrings of ours; empty ones are left out."""
    if isinstance(value, dict):
        return {
            key: _tidy_text(item) if key == "description" and isinstance(item, str) else _tidy(item)
            for key, item in value.items()
            if (key, item) != ("description", "")
        }
    return [_tidy(item) for item in value] if isinstance(value, list) else value


def _tidy_text(text: str) -> str:
    return _ROLE.sub(r"`\1`", inspect.cleandoc(text)).replace("``", "`")
