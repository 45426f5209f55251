"""Which schemas of a document consist of which."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any


def find_reachable(schemas: Mapping[str, Any], names: Iterable[str]) -> set[str]:
    """The names of the schemas that those of ``names`` consist of, directly or through references, with themselves."""
    reachable: set[str] = set()
    waiting = [name for name in names if name in schemas]
    while waiting:
        name = waiting.pop()
        if name not in reachable:
            reachable.add(name)
            waiting += [reference for reference in _list_references(schemas[name]) if reference in schemas]
    return reachable


def _list_references(node: Any) -> Iterator[str]:
    """Names of the schemas that a part of a document refers to."""
    if isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"].rsplit("/", 1)[-1]
        for value in node.values():
            yield from _list_references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _list_references(value)
