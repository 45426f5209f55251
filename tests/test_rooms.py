"""No room above the bus meets nats-py: neither its names, nor its objects, nor what is thrown by it.

import-linter holds that none of them imports nats. Here: what they use of the bus is the bus's own, what that takes and
gives is, too, and the connection inside :class:`bus.connection.Bus` is left alone.
"""

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from nats.aio.client import Client

from bus.connection import Bus
from bus.errors import BROKER_ERRORS, NOT_FOUND

ROOT = Path(__file__).parents[1]
INSIDE = {"js", "_msg"}
"""Attributes that lead into nats-py wherever they stand; ``client`` does where it is a bus's."""


def trees(*rooms: str) -> Iterator[tuple[str, ast.Module]]:
    for room in rooms:
        for path in sorted((ROOT / room).rglob("*.py")):
            yield path.relative_to(ROOT).as_posix(), ast.parse(path.read_text())


def names_from_bus() -> dict[str, Any]:
    """What agents and runtime use of the bus, by its full name: what they import, and what they read of its modules."""
    objects: dict[str, Any] = {}
    for _, tree in trees("agents", "runtime"):
        modules: dict[str, Any] = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "bus":
                package = importlib.import_module(node.module)
                for alias in node.names:
                    value = getattr(package, alias.name, None) or importlib.import_module(f"{node.module}.{alias.name}")
                    if inspect.ismodule(value):
                        modules[alias.asname or alias.name] = value
                    else:
                        objects[f"{node.module}.{alias.name}"] = value
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
                module = modules[node.value.id]
                objects[f"{module.__name__}.{node.attr}"] = getattr(module, node.attr, None)
    return objects


def is_of_nats(value: Any) -> bool:
    """Whether a value or a type is nats-py's, or holds one that is."""
    if isinstance(value, tuple):
        return any(map(is_of_nats, value))
    module = getattr(value, "__module__", None) or ""
    return str(module).split(".")[0] == "nats" or any(map(is_of_nats, get_args(value)))


def public_functions(value: Any) -> Iterator[Any]:
    """The functions that a name of the bus gives: itself, or the methods of a class without an underscore."""
    if inspect.isfunction(value):
        yield inspect.unwrap(value)
    elif inspect.isclass(value):
        for name, entry in vars(value).items():
            function = entry.fget if isinstance(entry, property) else getattr(entry, "__func__", entry)
            if not name.startswith("_") and inspect.isfunction(function):
                yield function


def test_the_check_knows_an_object_of_nats_when_it_sees_one() -> None:
    assert is_of_nats(BROKER_ERRORS)
    assert is_of_nats(NOT_FOUND)
    assert is_of_nats(list[Client])
    assert not is_of_nats(Bus)


def test_the_rooms_above_use_nothing_of_the_bus_that_is_of_nats() -> None:
    objects = names_from_bus()
    assert "bus.connection.Bus" in objects
    assert [name for name, value in objects.items() if is_of_nats(value)] == []


def test_a_function_that_they_call_takes_and_gives_nothing_of_nats() -> None:
    leaks = [
        f"{name}: {function.__qualname__}"
        for name, value in names_from_bus().items()
        for function in public_functions(value)
        if any(map(is_of_nats, get_type_hints(function).values()))
    ]
    assert leaks == []


@pytest.mark.parametrize("room", ["agents", "runtime"])
def test_the_connection_inside_the_bus_is_left_alone(room: str) -> None:
    uses = [
        f"{path}:{node.lineno} {ast.unparse(node)}"
        for path, tree in trees(room)
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and (node.attr in INSIDE or (node.attr == "client" and ast.unparse(node.value).endswith("bus")))
    ]
    assert uses == []
