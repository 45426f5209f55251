"""Writes a JSON Schema as the grammar takes it: the schemas that hold for one value are merged into one, an object
takes no properties but those that they name, and what no JSON that ends can follow is gone.

JSON Schema leaves an object open that says nothing of ``additionalProperties``, and a model then invents properties
until its tokens are spent. So an object whose properties are named is closed, as other constrained decoders do. Where
any of the schemas of an object says what else it takes, that holds as JSON Schema has it.
"""

import itertools
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from agents.inference.json_schema.finite import keep_finite
from agents.inference.json_schema.references import References, SchemaFault

CHOICES = ("anyOf", "oneOf")
OF_NUMBERS = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"})
OF_TEXTS = frozenset({"minLength", "maxLength", "pattern", "format"})
OF_ARRAYS = frozenset({"minItems", "maxItems", "items", "prefixItems", "additionalItems"})
OF_OBJECTS = frozenset(
    {"properties", "patternProperties", "additionalProperties", "unevaluatedProperties", "required"}
    | {"minProperties", "maxProperties"}
)
PLAIN = frozenset({"type", "enum", "const"}) | OF_NUMBERS | OF_TEXTS | OF_ARRAYS
"""Keywords that are taken over as they are, besides the schemas of items."""
UNSUPPORTED = frozenset(
    {"not", "if", "dependentSchemas", "dependentRequired", "dependencies", "contains", "uniqueItems"}
    | {"unevaluatedItems", "$dynamicRef", "$recursiveRef"}
)
"""Keywords that a grammar cannot hold."""
FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"})
"""Formats that the grammar holds; any other is a remark, as JSON Schema has it."""
MAX_ALTERNATIVES = 256
MAX_VALUES = 8192
"""Values that a schema may speak of, once its alternatives are written out."""

_LOOK_AROUND = re.compile(r"\(\?<?[=!]")
_WORDS = re.compile(r"\^(?:\((?:\?:)?([\w-]+(?:\|[\w-]+)*)\)|([\w-]+))\$")


@dataclass(frozen=True, kw_only=True)
class NormalSchema:
    """A schema that refers to nothing outside of it. ``passed_over``: the keywords that a grammar cannot hold."""

    schema: dict[str, Any]
    passed_over: tuple[str, ...]


def normalize_schema(schema: Any, *beside: dict[str, Any]) -> NormalSchema:
    """The normal form of a schema; ``beside`` are further ones that its values must follow.

    Raises:
        SchemaFault: it is none, refers to what is not there, or no JSON that ends can follow it.
    """
    try:
        normalizer = _Normalizer(References(schema))
        root = normalizer.write_value([schema, *beside])
        finite = keep_finite(root, normalizer.definitions)
    except RecursionError:
        raise SchemaFault("it is nested too deeply") from None
    if finite is None:
        raise SchemaFault("no JSON that ends can follow it: it refers to itself without a way out, or allows nothing")
    return NormalSchema(schema=finite, passed_over=tuple(sorted(normalizer.passed_over)))


@dataclass(kw_only=True)
class _Parts:
    """What holds for one value: each of ``owns``, which have no schema of the same value within, and one of each of
    ``groups``. ``by_reference``: a reference led to some of it."""

    owns: list[dict[str, Any]] = field(default_factory=list)
    groups: list[tuple[str, Sequence[Any]]] = field(default_factory=list)
    by_reference: bool = False

    def add(self, own: dict[str, Any]) -> None:
        """Add keywords, once."""
        if own and not any(own is other for other in self.owns):
            self.owns.append(own)

    @property
    def key(self) -> tuple[Any, ...]:
        """Equal for equal parts."""
        return tuple(map(id, self.owns)), tuple(tuple(map(id, group)) for _, group in self.groups)


class _Normalizer:
    def __init__(self, references: References) -> None:
        self._references = references
        self._names: dict[tuple[Any, ...], str] = {}
        self._owns: dict[int, dict[str, Any]] = {}
        self._values = 0
        self.definitions: dict[str, Any] = {}
        self.passed_over: set[str] = set()

    def write_value(self, schemas: Iterable[Any]) -> Any:
        """The normal form of a value that follows all of ``schemas``; only its name where a reference led there, so
        that a schema may contain itself."""
        self._values += 1
        if self._values > MAX_VALUES:
            raise SchemaFault("it has too many alternatives")
        parts = _Parts()
        if not all(self._collect(schema, parts, path=()) for schema in schemas):
            return False
        if not parts.by_reference:
            return self._write(parts)
        if parts.key not in self._names:
            self._names[parts.key] = name = str(len(self._names))
            self.definitions[name] = self._write(parts)
        return {"$ref": f"#/$defs/{self._names[parts.key]}"}

    def _collect(self, schema: Any, parts: _Parts, *, path: tuple[int, ...]) -> bool:
        """Add what a schema asks of its value to ``parts``; false when no value can follow it."""
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise SchemaFault(f"a schema is an object or a boolean, not {_name_type(schema)}")
        if id(schema) in path:
            return False
        path, own, possible = (*path, id(schema)), self._own(schema), True
        place = "properties" if "properties" in schema else next((word for word in schema if word in own), None)
        for keyword, value in schema.items():
            if keyword == "$ref":
                parts.by_reference = True
                possible &= self._collect(self._references.follow(schema), parts, path=path)
            elif keyword == "allOf":
                possible &= all(self._collect(item, parts, path=path) for item in _require_list(value, keyword))
            elif keyword in CHOICES:
                parts.groups.append((keyword, _require_list(value, keyword)))
            elif keyword == place:
                parts.add(own)
        parts.add(own)
        return possible

    def _own(self, schema: dict[str, Any]) -> dict[str, Any]:
        """The keywords of a schema that a grammar holds, without those that hold further schemas of the same value."""
        if id(schema) not in self._owns:
            self.passed_over |= {keyword for keyword in UNSUPPORTED & schema.keys() if schema[keyword] is not False}
            own = {keyword: value for keyword, value in schema.items() if keyword in PLAIN | OF_OBJECTS}
            for keyword in ("properties", "patternProperties"):
                if keyword in own and not isinstance(own[keyword], dict):
                    raise SchemaFault(f"'{keyword}' is an object, not {_name_type(own[keyword])}")
            _require_list(own.get("required", []), "required")
            if own.get("format") not in FORMATS:
                own.pop("format", None)
            if isinstance(own.get("pattern"), str) and _LOOK_AROUND.search(own["pattern"]):
                self.passed_over.add("pattern (?= or ?!)")
                del own["pattern"]
            own = _name_keys(own)
            if "propertyNames" in schema:
                own = self._limit_names(schema["propertyNames"], own)
            self._owns[id(schema)] = self._owns[id(own)] = own
        return self._owns[id(schema)]

    def _limit_names(self, names: Any, own: dict[str, Any]) -> dict[str, Any]:
        """``own`` with ``propertyNames`` written as properties, for names of an enumeration, or as a pattern."""
        while isinstance(names, dict) and "$ref" in names and len(self._owns) < MAX_VALUES:
            names = self._references.follow(names)
        others = own.get("additionalProperties", True)
        keywords = PLAIN & names.keys() if isinstance(names, dict) else set()
        if keywords <= {"type"}:
            return own
        if keywords <= {"type", "enum", "const"}:
            listed = dict.fromkeys(names.get("enum", [names.get("const")]), others)
            own = {**own, "properties": {**listed, **own.get("properties", {})}, "additionalProperties": False}
        elif keywords <= {"type", "pattern"}:
            patterns = {**own.get("patternProperties", {}), names["pattern"]: others}
            own = {**own, "patternProperties": patterns, "additionalProperties": False}
        else:
            self.passed_over.add("propertyNames")
        return own

    def _write(self, parts: _Parts) -> Any:
        if not parts.groups:
            return self._merge(parts.owns)
        groups = [group for _, group in parts.groups]
        if math.prod(map(len, groups)) > MAX_ALTERNATIVES:
            raise SchemaFault("it has too many alternatives")
        alternatives = [self.write_value([*parts.owns, *choice]) for choice in itertools.product(*groups)]
        alternatives = [alternative for alternative in alternatives if alternative is not False]
        keyword = parts.groups[0][0] if len(groups) == 1 else "anyOf"
        return {keyword: alternatives} if alternatives else False

    def _merge(self, owns: Sequence[dict[str, Any]]) -> Any:
        """One schema for a value that follows all of ``owns``. Keywords that differ stand beside it, in ``allOf``."""
        merged: dict[str, Any] = {}
        others: list[dict[str, Any]] = []
        for own in owns:
            plain = self._write_items({keyword: own[keyword] for keyword in own if keyword in PLAIN})
            if any(keyword in merged and merged[keyword] != value for keyword, value in plain.items()):
                others.append(plain)
            else:
                merged |= plain
        of_objects = [own for own in owns if OF_OBJECTS & own.keys()]
        if not any({"type", "enum", "const"} & own.keys() for own in owns):
            if of_objects:
                merged["type"] = "object"
            elif OF_ARRAYS & merged.keys():
                merged["type"] = "array"
        if of_objects:
            merged |= self._merge_objects(of_objects, fixed=bool({"enum", "const"} & merged.keys()))
        if others:
            merged["allOf"] = others
        return merged

    def _write_items(self, plain: dict[str, Any]) -> dict[str, Any]:
        for keyword in ("items", "prefixItems", "additionalItems"):
            if isinstance(plain.get(keyword), list):
                plain[keyword] = [self.write_value([item]) for item in plain[keyword]]
            elif keyword in plain:
                plain[keyword] = self.write_value([plain[keyword]])
        return plain

    def _merge_objects(self, owns: Sequence[dict[str, Any]], *, fixed: bool) -> dict[str, Any]:
        """The keywords of one object that follows all of ``owns``; ``fixed``: its values are listed."""
        owns = _close_together(owns)
        names = list(dict.fromkeys(name for own in owns for name in own.get("properties", ())))
        patterns = list(dict.fromkeys(name for own in owns for name in own.get("patternProperties", ())))
        required = list(dict.fromkeys(name for own in owns for name in own.get("required", ())))
        properties = {name: self.write_value(_schemas_of_property(name, owns)) for name in names}
        further = [own["additionalProperties"] for own in owns if "additionalProperties" in own]
        further = further or [own["unevaluatedProperties"] for own in owns if "unevaluatedProperties" in own]
        merged: dict[str, Any] = {}
        if further:
            merged["additionalProperties"] = self.write_value(further)
        elif not fixed and any({"properties", "patternProperties"} & own.keys() for own in owns):
            merged["additionalProperties"] = False
            unnamed = [name for name in required if not any(_matches(pattern, name) for pattern in patterns)]
            properties = {**properties, **{name: True for name in unnamed if name not in properties}}
        if properties:
            merged["properties"] = properties
        if patterns:
            merged["patternProperties"] = {
                pattern: self.write_value(_schemas_of_pattern(pattern, owns)) for pattern in patterns
            }
        if required:
            merged["required"] = required
        for keyword, choose in (("minProperties", max), ("maxProperties", min)):
            if bounds := [own[keyword] for own in owns if keyword in own]:
                merged[keyword] = choose(bounds)
        return merged


def _close_together(owns: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """The schemas without ``additionalProperties: false``, where one of them forbids by it what another requires.

    Nothing could follow them; what is meant is that the object takes no more than all of them name.
    """
    required = {name for own in owns for name in own.get("required", ()) if name in own.get("properties", ())}
    if not any(own.get("additionalProperties") is False and not _allows(own, required) for own in owns):
        return owns
    return [
        {keyword: value for keyword, value in own.items() if (keyword, value) != ("additionalProperties", False)}
        for own in owns
    ]


def _allows(own: dict[str, Any], names: Iterable[str]) -> bool:
    patterns = own.get("patternProperties", ())
    return all(
        name in own.get("properties", ()) or any(_matches(pattern, name) for pattern in patterns) for name in names
    )


def _schemas_of_property(name: str, owns: Sequence[dict[str, Any]]) -> list[Any]:
    """The schemas of one property; those of patterns that it matches stay with the patterns."""
    schemas = []
    for own in owns:
        if name in own.get("properties", ()):
            schemas.append(own["properties"][name])
        elif not any(_matches(pattern, name) for pattern in own.get("patternProperties", ())):
            schemas.append(own.get("additionalProperties", True))
    return schemas


def _schemas_of_pattern(pattern: str, owns: Sequence[dict[str, Any]]) -> list[Any]:
    return [own.get("patternProperties", {}).get(pattern, own.get("additionalProperties", True)) for own in owns]


def _name_keys(own: dict[str, Any]) -> dict[str, Any]:
    """``own`` with a pattern that stands for a few names written as properties, of which each comes once."""
    properties, patterns = dict(own.get("properties", {})), dict(own.get("patternProperties", {}))
    for pattern in list(patterns):
        words = _WORDS.fullmatch(pattern)
        keys = (words[1] or words[2]).split("|") if words else []
        if keys and not any(key in properties for key in keys):
            properties |= dict.fromkeys(keys, patterns.pop(pattern))
    if patterns == own.get("patternProperties", {}):
        return own
    return {**own, "properties": properties, "patternProperties": patterns}


def _matches(pattern: str, name: str) -> bool:
    try:
        return re.search(pattern, name) is not None
    except re.error:
        return False


def _require_list(value: Any, keyword: str) -> list[Any]:
    if not isinstance(value, list):
        raise SchemaFault(f"'{keyword}' is a list, not {_name_type(value)}")
    return value


def _name_type(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")
