"""What a test needs besides Python, found in its code: a marker for each thing, so that one can leave it out.

A test needs what it calls, and what its fixtures and the helpers under ``tests`` call. So nobody writes these markers,
and a test that begins to use a broker has the marker ``broker`` from then on. What a child process uses is not seen,
unless it is started by one of the calls of :data:`CALLS`.
"""

import functools
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
    "process": ("anyio.open_process", "anyio.run_process", "asyncio.create_subprocess_exec"),
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
    for item in items:
        for need in sorted(find_needs(item)):
            item.add_marker(need)


def find_needs(item: pytest.Item) -> set[str]:
    """The names of what a test needs."""
    functions = [item.function] if isinstance(item, pytest.Function) else []
    definitions = getattr(item, "_fixtureinfo", None)
    if definitions is not None:
        functions += [fixtures[-1].func for fixtures in definitions.name2fixturedefs.values()]
    needs = needs_of(*functions)
    client = getattr(getattr(item, "callspec", None), "params", {}).get("client")
    language = LANGUAGES.get(getattr(client, "language", ""))
    if language is not None and "reports" in getattr(item, "fixturenames", ()):
        needs.add(language)
    return needs


def needs_of(*functions: Any) -> set[str]:
    """What functions, or the methods of classes, need with all that they call."""
    waiting, seen, needs = list(functions), set[FunctionType](), set[str]()
    while waiting:
        called = waiting.pop()
        called = getattr(called, "__func__", getattr(called, "__wrapped__", called))
        if isinstance(called, type):
            waiting += [value for value in vars(called).values() if isinstance(value, FunctionType)]
        elif isinstance(called, FunctionType) and called not in seen:
            seen.add(called)
            own_needs, calls = _read_function(called)
            needs |= own_needs
            waiting += calls
    return needs


@functools.cache
def _read_function(function: FunctionType) -> tuple[frozenset[str], tuple[Any, ...]]:
    """What a function itself shows that it needs, and the functions and classes that it calls."""
    needs, calls = set(_read_code(function.__code__)), list[Any]()
    for used in _find_used(function):
        needs |= _match_call(used) | _match_module(_module_of(used))
        if callable(used) and _module_of(used).startswith(FOLLOWED):
            calls.append(used)
    return frozenset(needs), tuple(calls)


def _find_used(function: FunctionType) -> Iterator[Any]:
    """What a function's names stand for: in its module, and in the modules that are named there."""
    names = _names_of(function.__code__)
    for name in names & function.__globals__.keys():
        used = function.__globals__[name]
        yield used
        if isinstance(used, ModuleType):
            yield from (vars(used)[attribute] for attribute in names & vars(used).keys())


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


@functools.cache
def _resolve(call: str) -> str:
    """Where a call is defined, when its module only names it: ``runtime.models.prepare`` lives in another file."""
    module, _, name = call.rpartition(".")
    value: Callable[..., Any] | None = getattr(sys.modules.get(module), name, None)
    return call if value is None else f"{getattr(value, '__module__', module)}.{getattr(value, '__qualname__', name)}"
