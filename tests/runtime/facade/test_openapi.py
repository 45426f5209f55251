"""The OpenAPI document: kept as a golden file, valid, served as it is kept, and true to the routes and the structs."""

from collections.abc import Iterator
from typing import Any

import httpx
import msgspec
import pytest
from fastapi.openapi.utils import get_openapi
from msgspec import Struct
from openapi_spec_validator import OpenAPIV31SpecValidator

from runtime.facade.app import ROUTES, encode_interface
from runtime.facade.errors import RETRYABLE
from runtime.facade.openapi.bodies import FIELDS, UNSERVED
from runtime.facade.openapi.operations import OPERATIONS
from runtime.facade.openapi.refusals import REASONS, status_of
from schemas.errors import RETRYABLE_CODES
from tests.runtime.facade.conformance import DOCUMENT, GOLDEN, look_up

METHODS = ("get", "post", "put", "patch", "delete", "head")


def operations() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Each path and method with what the document says of it."""
    for path, item in DOCUMENT["paths"].items():
        for method in METHODS:
            if method in item:
                yield path, method, item[method]


def test_the_golden_file_is_what_routes_and_structs_say() -> None:
    assert GOLDEN.read_bytes() == encode_interface(), "the interface changed: run 'make contract'"


def test_the_document_is_valid_and_a_broken_one_is_not() -> None:
    assert not list(OpenAPIV31SpecValidator(DOCUMENT).iter_errors())
    broken = {**DOCUMENT, "info": {"title": "micro-kiki"}}
    assert list(OpenAPIV31SpecValidator(broken).iter_errors())


@pytest.mark.anyio
async def test_the_document_is_served_as_it_is_kept(http: httpx.AsyncClient) -> None:
    reply = await http.get("/openapi.json")
    assert (reply.status_code, reply.headers["content-type"]) == (200, "application/json")
    assert reply.content == GOLDEN.read_bytes()


def test_every_route_is_in_the_document_and_no_other() -> None:
    routes = [route for module in ROUTES for route in module.router.routes]
    known = get_openapi(title="", version="", routes=routes)["paths"]
    served = {(path, method) for path, item in known.items() for method in item}
    served |= {(path, "head") for path, method in served if method == "get"}
    assert {(path, method) for path, method, _ in operations()} == served
    assert len(OPERATIONS) == len({name for _, method, operation in operations() if method != "head"
                                   for name in [operation["operationId"]]})  # fmt: skip


def test_every_operation_has_its_words_and_errors() -> None:
    for path, method, operation in operations():
        assert operation["summary"].endswith("."), path
        assert {"200", "403", "500"} <= operation["responses"].keys(), path
        for parameter in map(look_up, operation["parameters"]):
            assert parameter["description"], (path, parameter)
            assert parameter["schema"].keys() & {"type", "anyOf", "enum"}, (path, parameter)
        if method == "head":
            assert not any("content" in reply for reply in operation["responses"].values())
            continue
        for status, reply in operation["responses"].items():
            shapes = look_up(reply)["content"]
            assert status == "200" or shapes.keys() == {"application/json"}, (path, status)
        if "requestBody" in operation:
            assert {"400", "408", "413", "415"} <= operation["responses"].keys(), path


def test_a_refusal_that_may_be_tried_again_says_when() -> None:
    for status, reply in DOCUMENT["components"]["responses"].items():
        assert ("retry-after" in reply.get("headers", {})) == (int(status[-3:]) in RETRYABLE)
    assert {status_of(code) for code in RETRYABLE_CODES} <= set(RETRYABLE)
    assert {status[-3:] for status in DOCUMENT["components"]["responses"]} == set(map(str, REASONS))


def test_every_field_of_every_struct_has_a_type() -> None:
    typed = {"type", "$ref", "anyOf", "enum", "const"}
    for name, schema in DOCUMENT["components"]["schemas"].items():
        assert schema["description"], name
        for field, shape in schema["properties"].items():
            assert typed & shape.keys(), f"{name}.{field}"


def test_the_tables_name_fields_that_exist_and_are_open() -> None:
    open_fields: list[tuple[type[Struct], str]] = [*FIELDS, *UNSERVED]
    for struct, name in open_fields:
        (field,) = [field for field in msgspec.structs.fields(struct) if field.name == name]
        assert field.type is str or "Any" in str(field.type), f"{struct.__name__}.{name} has a type of its own now"
