"""Follows the references of one JSON Schema, within the schema itself (RFC 6901, and ``$id`` and ``$anchor`` of the
drafts up to 2020-12). Nothing is ever fetched.
"""

from typing import Any
from urllib.parse import unquote, urldefrag, urljoin

LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
"""Keywords that hold a list of schemas."""
MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
"""Keywords that hold schemas by name."""
SINGLE = (
    "additionalProperties",
    "unevaluatedProperties",
    "propertyNames",
    "items",
    "additionalItems",
    "unevaluatedItems",
    "contains",
    "not",
    "if",
    "then",
    "else",
)
"""Keywords that hold a schema; ``items`` held a list of them in older drafts."""


class SchemaFault(ValueError):
    """A JSON Schema that no answer can be made to follow; the text says why."""


class References:
    """The references of the schema ``root``, which stays as it is."""

    def __init__(self, root: Any) -> None:
        self._bases: dict[int, str] = {}
        self._places: dict[str, Any] = {"": root}
        self._index(root, "")

    def follow(self, node: dict[str, Any]) -> Any:
        """The schema that the ``$ref`` of ``node`` points to.

        Raises:
            SchemaFault: it points out of the schema, or to a place that does not exist.
        """
        reference = node["$ref"]
        if not isinstance(reference, str):
            raise SchemaFault("'$ref' is a text")
        base = self._bases.get(id(node), "")
        uri, fragment = urldefrag(reference)
        place = urljoin(base, uri) if uri else base
        if place not in self._places:
            raise SchemaFault(f"'$ref' to '{reference}' leads out of the schema; put what it names into '$defs'")
        if not fragment or fragment.startswith("/"):
            return self._walk(self._places[place], fragment, reference)
        if f"{place}#{fragment}" not in self._places:
            raise SchemaFault(f"'$ref' points to '{reference}', which is not there")
        return self._places[f"{place}#{fragment}"]

    def _walk(self, node: Any, pointer: str, reference: str) -> Any:
        base = self._bases.get(id(node), "")
        for part in unquote(pointer).split("/")[1:]:
            key = part.replace("~1", "/").replace("~0", "~")
            if isinstance(node, dict) and key in node:
                node = node[key]
            elif isinstance(node, list) and key.isdecimal() and int(key) < len(node):
                node = node[int(key)]
            else:
                raise SchemaFault(f"'$ref' points to '{reference}', which is not there")
            base = self._bases.get(id(node), base)
        self._index(node, base)  # a place that no keyword makes a schema, as '#/components/schemas/x'
        return node

    def _index(self, node: Any, base: str) -> None:
        if not isinstance(node, dict) or id(node) in self._bases:
            return
        if isinstance(identifier := node.get("$id"), str):
            uri, fragment = urldefrag(identifier)
            base = urljoin(base, uri) if uri else base
            self._places.setdefault(f"{base}#{fragment}" if fragment else base, node)
        if isinstance(anchor := node.get("$anchor"), str):
            self._places.setdefault(f"{base}#{anchor}", node)
        self._bases[id(node)] = base
        for child in subschemas(node):
            self._index(child, base)


def subschemas(node: dict[str, Any]) -> list[Any]:
    """The schemas directly within a schema; what stands in ``const``, ``enum``, ``default`` and the like is none."""
    children: list[Any] = []
    for keyword, value in node.items():
        if keyword in MAPS and isinstance(value, dict):
            children += value.values()
        elif keyword in (*LISTS, "items") and isinstance(value, list):
            children += value
        elif keyword in SINGLE:
            children.append(value)
    return children
