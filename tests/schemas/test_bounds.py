"""Every integer of the contract fits into 64 bits, and no pattern passes over a last line end."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from schemas.asyncapi.document import document
from schemas.base import LARGEST_INTEGER

SCHEMAS: dict[str, Any] = document()["components"]["schemas"]


def parts_of(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Every part of a schema that says a type, with its path."""
    if isinstance(node, dict):
        if "type" in node:
            yield path, node
        for name, value in node.items():
            if name != "examples":
                yield from parts_of(value, f"{path}.{name}")
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from parts_of(value, f"{path}[{index}]")


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_every_integer_has_bounds_that_other_languages_hold(name: str) -> None:
    open_ended = [
        path
        for path, part in parts_of(SCHEMAS[name], name)
        if part["type"] == "integer"
        and not (
            part.get("minimum", float("-inf")) >= -LARGEST_INTEGER
            and part.get("maximum", float("inf")) <= LARGEST_INTEGER
        )
    ]
    assert open_ended == []


def test_no_pattern_takes_a_last_line_end() -> None:
    patterns = {part["pattern"] for name in SCHEMAS for _, part in parts_of(SCHEMAS[name]) if "pattern" in part}
    assert len(patterns) > 5
    samples = ["a", "a.b", "0" * 64, "5", "me", "x-1", ""]
    for pattern in patterns:
        assert any(re.search(pattern, sample) for sample in samples), pattern
        assert not any(re.search(pattern, f"{sample}\n") for sample in samples), pattern
