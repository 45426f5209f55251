"""The docs name only what exists: files, modules, functions, routes, metrics, verbs, make's targets, settings."""

import ast
import functools
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from bus.connection import Bus
from runtime.agents import PLACEMENT
from runtime.cli.__main__ import app
from runtime.settings import is_known_variable
from tests.contract.test_metrics_page import paths_of_the_code

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "deploy/client/README.md")),
        *(ROOT / "docs").glob("**/*.md"),
    ]
)
ROOMS = ("schemas", "bus", "agents", "runtime", "configs", "tests", "deploy", "docs")
MOST_WORDS = int(0.6 * 18_081)
"""Words of the nine pages on the runtime and its parts; what needs more room has a page of its own."""

ADVISORS = {"nerve-wml": "advisors", "kiki-flow": "advisors"}
"""Agents whose settings lie in another agent's folder."""

PATH = re.compile(rf"(?<![\w/.-])(?:{'|'.join(ROOMS)})/[\w./*{{}},-]*")
MODULE = re.compile(r"(?<![\w/.-])(?:schemas|bus|agents|runtime)(?:\.\w+)+")
SECTION = re.compile(r"\[agents\.([\w-]+)(?:\.([\w-]+)[\w.-]*)?\]`?\s*(?:`?(\w+)(?:`? ?=|`))?")
"""A table of ``kiki.toml``: the agent, a table below it, and the setting that is named after it."""

NAME = re.compile(r"(?<![\w./$-])[a-z][a-z0-9]*(?:_[a-z0-9]+)+(?![\w/])")
"""A function, a field, a setting or a code of an error: more than one word in small letters."""

ROUTE = re.compile(r"(?<![\w.:/<}-])/(?:v1/[\w/{}<>*.-]+|health|ready|status|metrics|route|openapi\.json)\b")
OTHERS_ROUTES = {"/v1/load_lora_adapter"}
"""Routes of an upstream."""

WITHOUT_NAMES = ("results.md",)
"""Pages whose names are those of what was asked in a measurement."""

BREAKPOINT = re.compile(r"\bb ([\w/]+\.py):(\d+)")

VARIABLE = re.compile(r"\bKIKI_[A-Z_]+\b")


def code_spans(page: Path) -> Iterator[str]:
    """What a page sets in code: spans and the lines of its blocks."""
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"```[a-z]*\n(.*?)```", text, re.DOTALL):
        yield from block.splitlines()
    yield from re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))


def spelled_out(pattern: str) -> Iterator[str]:
    """A path with each choice of its braces: ``a/{b,c}`` is ``a/b`` and ``a/c``."""
    parts = re.split(r"\{([^}]*)\}", pattern)
    choices = [part.split(",") if index % 2 else [part] for index, part in enumerate(parts)]
    return ("".join(chosen) for chosen in itertools.product(*choices))


def module_exists(name: str) -> bool:
    """Whether a dotted name is a module of the rooms, or something that a module defines."""
    parts = name.split(".")
    if parts[0] == "bus" and len(parts) == 2 and hasattr(Bus, parts[1]):
        return True  # a variable of an example
    for length in range(len(parts), 0, -1):
        base = ROOT.joinpath(*parts[:length])
        source = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
        if source.exists():
            defined = set(
                re.findall(r"^\s*(?:async def|def|class) (\w+)|^(\w+)\s*[:=]", source.read_text(), re.MULTILINE)
            )
            return all(any(part in names for names in defined) for part in parts[length:])
    return False


@functools.cache
def words_of_the_code() -> frozenset[str]:
    """Every name and word of what is written in this repository, the docs aside."""
    files = [ROOT / "pyproject.toml", ROOT / "Makefile"]
    for room in ROOMS[:-1]:
        for ending in ("py", "yaml", "toml", "ts", "sh", "mjs", "txt"):
            files += [path for path in (ROOT / room).rglob(f"*.{ending}") if "node_modules" not in path.parts]
    words = (re.findall(r"\w+", path.read_text(encoding="utf-8")) for path in files)
    return frozenset(itertools.chain.from_iterable(words))


def is_route(path: str) -> bool:
    """Whether the facade has a route like that, or some below it; a part in braces stands for any."""
    routes = json.loads((ROOT / "docs" / "openapi.json").read_text(encoding="utf-8"))["paths"]
    patterns = (re.sub(r"\\\{[^}]*\\\}", "[^/]+", re.escape(route)) for route in routes)
    above = (route.startswith(f"{path}/") for route in routes)
    return path in OTHERS_ROUTES or any(above) or any(re.fullmatch(pattern, path) for pattern in patterns)


def settings_of(agent: str) -> set[str]:
    """The names of an agent's settings, or of the facade's."""
    room = "runtime" if agent == "facade" else "agents"
    source = ROOT / room / ADVISORS.get(agent, agent) / "settings.py"
    if not source.exists():
        return set(PLACEMENT)
    return set(PLACEMENT) | {
        node.target.id
        for part in ast.walk(ast.parse(source.read_text()))
        if isinstance(part, ast.ClassDef)
        for node in part.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }


def is_setting(name: str) -> bool:
    """Whether ``agents.memory.atlas`` and the like is a setting."""
    room, agent, *fields = name.split(".")
    return room == "agents" and len(fields) == 1 and fields[0] in settings_of(agent)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_and_module_of_a_page_exists(page: Path) -> None:
    missing = set()
    for span in code_spans(page):
        for match in PATH.findall(span):
            for path in spelled_out(match.rstrip(".,")):
                if not any(ROOT.glob(path.rstrip("/"))) and not any(page.parent.glob(path.rstrip("/"))):
                    missing.add(path)
        missing |= {
            name
            for name in MODULE.findall(SECTION.sub("", span))
            if not module_exists(name) and not is_setting(name) and name not in paths_of_the_code()
        }
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_function_and_field_of_a_page_exists(page: Path) -> None:
    if page.name in WITHOUT_NAMES:
        return
    text = page.read_text(encoding="utf-8")
    of_its_lessons = set(re.findall(r"^ *(?:async )?def (\w+)\(", text, re.MULTILINE))
    words = words_of_the_code() | of_its_lessons
    metrics = set(NAME.findall((ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")))
    wrong = set()
    for span in code_spans(page):
        for name in NAME.findall(span):
            is_part = " -k " in span and any(name in word for word in words)  # pytest chooses tests by a part of a name
            is_metric = name.startswith("kiki_") and name in metrics
            if not (name in words or is_part or is_metric):
                wrong.add(name)
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_route_of_a_page_exists(page: Path) -> None:
    assert not {path for span in code_spans(page) for path in ROUTE.findall(span) if not is_route(path.rstrip("/."))}


def test_a_name_or_a_route_that_does_not_exist_is_seen(tmp_path: Path) -> None:
    page, function = tmp_path / "page.md", "_".join(("find", "nothing", "of", "the", "kind"))
    page.write_text(f"Call `{function}()`, ask `GET /v1/nothing` or `/v1/turns/{{turn_id}}`, set `max_tokens`.")
    with pytest.raises(AssertionError, match=function):
        test_every_function_and_field_of_a_page_exists(page)
    with pytest.raises(AssertionError, match="'/v1/nothing'"):
        test_every_route_of_a_page_exists(page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)(?:#[\w-]*)?\)", page.read_text(encoding="utf-8"))
    assert not {link for link in links if not (page.parent / link).exists()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_verb_of_a_page_exists(page: Path) -> None:
    wrong = set()
    for span in code_spans(page):
        for match in re.findall(r"(?:^|[ /])kiki((?: [a-z|-]+)+)", re.sub(r"\s*#.*", "", span)):
            wrong |= {f"kiki{match}" for verbs in verb_choices(match) if not verb_exists(verbs)}
        wrong |= {
            f"make {target}"
            for target in re.findall(r"^make ([a-z]+)", span)
            if not re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
        }
    assert not wrong


def verb_choices(text: str) -> Iterator[list[str]]:
    """``a b | c`` is ``a b`` and ``a c``."""
    first, *others = [part.split() for part in text.split("|")]
    yield first
    for other in others:
        yield [*first[:-1], *other]


def verb_exists(verbs: list[str]) -> bool:
    """Whether the command line knows these verbs, one under the other; words after a verb are its arguments."""
    command: Any = typer.main.get_command(app)
    for verb in verbs:
        if not hasattr(command, "get_command") or verb.startswith("-"):
            return True
        command = command.get_command(typer.Context(command), verb)
        if command is None:
            return False
    return True


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_setting_of_a_page_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    wrong = {
        f"[agents.{agent}] {table or field}"
        for agent, table, field in SECTION.findall(text)
        if agent != "NAME" and not settings_of(agent) >= {name for name in (table or field,) if name}
    }
    for variable in VARIABLE.findall(text):
        nested = re.fullmatch(r"KIKI_AGENTS__([A-Z]+)__([A-Z]+)(?:__[A-Z_]+)?", variable)
        if nested is not None:
            agent, field = (part.lower() for part in nested.groups())
            is_lesson = re.search(rf"^\[agents\.{agent}\]\nclass = ", text, re.MULTILINE) is not None
            if field not in settings_of(agent) and not is_lesson:
                wrong.add(variable)
        elif not is_known_variable(variable):
            wrong.add(variable)
    assert not wrong


def test_a_breakpoint_of_a_page_is_where_a_handler_begins() -> None:
    """A line's number moves with every change above it."""
    found = [place for page in PAGES for place in BREAKPOINT.findall(page.read_text(encoding="utf-8"))]
    assert found
    for file, line in found:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        handlers = [node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef)]
        first_lines = {node.body[0].lineno: node.name for node in handlers}
        assert first_lines.get(int(line)) == "_handle", f"{file}:{line}"


def test_the_glossary_is_in_alphabetical_order_and_has_each_term_once() -> None:
    terms = re.findall(
        r"^- \*\*(.+?)\*\*: \S", (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert terms == sorted(set(terms), key=str.casefold)
    assert len(terms) > 60


def test_the_nine_pages_stay_short() -> None:
    names = ("architecture", "cognition", "dream", "guarantees", "memory", "operations", "router", "services", "worker")
    words = {name: len((ROOT / "docs" / f"{name}.md").read_text(encoding="utf-8").split()) for name in names}
    assert sum(words.values()) <= MOST_WORDS, words


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CHANGELOG.md"], ids=lambda page: page.name)
def test_a_page_speaks_of_today(page: Path) -> None:
    text = " ".join(page.read_text(encoding="utf-8").split())
    assert not [phrase for phrase in ("the monolith", "design section", "by turns") if phrase in text]
