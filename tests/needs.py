"""What a test needs besides Python, found in its code: a marker for each thing, so that one can leave it out.

A test needs what it calls, and what its fixtures and the helpers under ``tests`` call. So nobody writes these markers,
and a test that begins to use a broker has the marker ``broker`` from then on. What a child process uses is not seen,
unless it is started by one of the calls of :data:`CALLS`.
"""

import sys
from collections.abc import Callable, Iterator
from types import CodeType, FunctionType, ModuleType
from typing import Any

import pytest

CALLS = {
    "broker": (
        "bus.broker.run_broker",
        "bus.broker.find_executable",
        "bus.testing.temporary_broker",
        "bus.testing.connect_fresh",
        "runtime.bench.harness.fresh_runtime",
        "runtime.bench.harness.fresh_broker",
        "runtime.supervisor.Supervisor",
        "tests.e2e.conftest.start",
    ),
    "model": ("runtime.models.prepare", "tests.e2e.conftest.start"),
    "neo4j": ("tests.neo4j_server.serve_neo4j",),
    "root": ("tests.small_disk.mount_small_disk", "os.setuid"),
    "packages": ("pip", "uv"),
}
"""The calls by which a need is known: a function's full name, or a program that is an argument of its own."""

FOLLOWED = ("tests.", "deploy.", "runtime.bench.")
"""Where the code lies that is read for what it calls in its turn."""

MODULES = {
    "mlx": ("mlx", "torch", "agents.inference.mlx", "agents.inference.int8", "agents.inference.adapters"),
    "stores": tuple(f"agents.memory.stores.{name}" for name in ("pair", "embedded", "edge", "ladybug", "optimise")),
    "process": ("subprocess", "multiprocessing", "runtime.supervisor", "bus.broker.watcher"),
}
"""The modules by which a need is known, with those below them: a test uses one, or something that is defined there."""

PROGRAMS = {
    "go": "go",
    "cargo": "rust",
    "java": "java",
    "javac": "java",
    "mvn": "java",
    "node": "node",
    "npm": "node",
    "jq": "jq",
    "openssl": "openssl",
}
"""A program that ``shutil.which`` is asked for, and the marker of the tests that ask."""

LANGUAGES = {"Node": "node", "Go": "go", "Java": "java", "Rust": "rust", "Python": "packages"}
"""What a stock client needs, by its language."""


def mark_needs(items: list[pytest.Item]) -> None:
    """Give each test the markers of what it needs."""
    known: dict[CodeType, frozenset[str]] = {}
    for item in items:
        for need in sorted(find_needs(item, known)):
            item.add_marker(need)


def find_needs(item: pytest.Item, known: dict[CodeType, frozenset[str]] | None = None) -> frozenset[str]:
    """The names of what a test needs. ``known`` keeps what was found in functions that several tests call."""
    known = {} if known is None else known
    functions = [item.function] if isinstance(item, pytest.Function) else []
    definitions = getattr(item, "_fixtureinfo", None)
    if definitions is not None:
        functions += [fixtures[-1].func for fixtures in definitions.name2fixturedefs.values()]
    needs = frozenset[str]().union(*(_needs_of(function, known) for function in functions))
    client = getattr(getattr(item, "callspec", None), "params", {}).get("client")
    language = LANGUAGES.get(getattr(client, "language", ""))
    return needs | ({language} if language is not None and "reports" in getattr(item, "fixturenames", ()) else set())


def _needs_of(function: Any, known: dict[CodeType, frozenset[str]]) -> frozenset[str]:
    function = getattr(function, "__wrapped__", function)
    function = getattr(function, "__func__", function)
    if isinstance(function, type):
        methods = (value for value in vars(function).values() if isinstance(value, FunctionType))
        return frozenset[str]().union(*(_needs_of(method, known) for method in methods))
    if not isinstance(function, FunctionType):
        return frozenset()
    code = function.__code__
    if code not in known:
        known[code] = frozenset()  # a function that calls itself needs nothing more for that
        found = set(_read_code(code))
        for name in _names_of(code):
            used = function.__globals__.get(name)
            found |= _match_call(used) | _match_module(_module_of(used))
            if getattr(used, "__module__", "").startswith(FOLLOWED) and callable(used):
                found |= _needs_of(used, known)
        known[code] = frozenset(found)
    return known[code]


def _codes_of(code: CodeType) -> Iterator[CodeType]:
    """A function's code and that of the functions inside it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes_of(constant)


def _names_of(code: CodeType) -> set[str]:
    return {name for part in _codes_of(code) for name in part.co_names}


def _texts_of(code: CodeType) -> set[str]:
    constants = [constant for part in _codes_of(code) for constant in part.co_consts]
    constants += [value for constant in constants if isinstance(constant, tuple) for value in constant]
    return {constant for constant in constants if isinstance(constant, str)}


def _read_code(code: CodeType) -> Iterator[str]:
    """Needs that the code itself shows: programs that it looks for, and what it imports inside a function."""
    names, texts = _names_of(code), _texts_of(code)
    yield from (need for name in names for need in _match_module(name))
    if "which" in names:
        yield from (PROGRAMS[text] for text in texts & PROGRAMS.keys())
    for need, calls in CALLS.items():
        for call in calls:
            module, _, name = call.rpartition(".")
            if call in texts if not module else {module, name} <= names:
                yield need


def _module_of(used: Any) -> str:
    return str(used.__name__ if isinstance(used, ModuleType) else getattr(used, "__module__", ""))


def _match_module(name: str) -> set[str]:
    return {need for need, modules in MODULES.items() if any(f"{name}.".startswith(f"{part}.") for part in modules)}


def _match_call(used: Any) -> set[str]:
    full_name = f"{getattr(used, '__module__', '')}.{getattr(used, '__qualname__', '')}"
    origin = getattr(used, "__wrapped__", used)
    names = {full_name, f"{getattr(origin, '__module__', '')}.{getattr(origin, '__qualname__', '')}"}
    return {need for need, calls in CALLS.items() if names & {_resolve(call) for call in calls}}


_RESOLVED: dict[str, str] = {}


def _resolve(call: str) -> str:
    """Where a call is defined, when its module only names it: ``bus.broker.run_broker`` may live in another file."""
    if call not in _RESOLVED:
        module, _, name = call.rpartition(".")
        value: Callable[..., Any] | None = getattr(sys.modules.get(module), name, None)
        origin = f"{getattr(value, '__module__', module)}.{getattr(value, '__qualname__', name)}"
        _RESOLVED[call] = origin if value is not None else call
    return _RESOLVED[call]
