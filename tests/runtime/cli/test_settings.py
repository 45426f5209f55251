"""``kiki settings``: the page of the documentation is what the code says, and says something of each setting."""

import re
import typing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from runtime.agents import FACADE, all_agents, find_settings_class
from runtime.cli.__main__ import app
from runtime.cli.settings import read_meanings, write_page
from runtime.settings import Settings
from tests.supply.locking import ROOT

PAGE = ROOT / "docs" / "settings.md"
ROW = re.compile(r"^\| `(\w+)` \|(.*)\|$", re.MULTILINE)
IN_SECONDS = re.compile(r"(timeout|seconds|interval|_wait|_grace|_age|half_life)$")


def structs_of(kind: Any) -> set[type[msgspec.Struct]]:
    """The class of a table, and the classes of the tables inside it."""
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return {kind}.union(*(structs_of(field.type) for field in msgspec.structs.fields(kind)))
    return set().union(*(structs_of(part) for part in typing.get_args(kind)))


def settings_classes() -> list[type[msgspec.Struct]]:
    """The classes of all agents' settings, with the tables inside them."""
    found = {kind for name in (FACADE, *all_agents()) for kind in structs_of(find_settings_class(name))}
    return sorted(found, key=lambda kind: kind.__name__)


def test_the_page_of_the_docs_is_what_the_code_says(tmp_path: Path) -> None:
    assert PAGE.read_text(encoding="utf-8") == write_page(), "run 'make contract'"
    result = CliRunner().invoke(app, ["settings", "--output", str(tmp_path / "page.md")])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "page.md").read_bytes() == PAGE.read_bytes()
    assert CliRunner().invoke(app, ["settings"]).output == write_page()


def test_every_agent_and_the_facade_have_their_table() -> None:
    tables = re.findall(r"In the file: `\[agents\.([\w-]+)\]`", write_page())
    assert tables == [FACADE, *all_agents()]


def test_every_setting_stands_on_the_page_with_its_meaning() -> None:
    cells = {(name, row.rpartition(" | ")[2].strip()) for name, row in ROW.findall(write_page())}
    assert all(meaning for _, meaning in cells)
    names = {name for name, _ in cells}
    assert set(Settings.model_fields) <= names
    for kind in settings_classes():
        assert set(kind.__struct_fields__) <= names, kind


@pytest.mark.parametrize("kind", settings_classes(), ids=lambda kind: kind.__name__)
def test_the_docstring_has_a_line_for_each_setting_and_no_other(kind: type[msgspec.Struct]) -> None:
    meanings = read_meanings(kind)
    assert list(meanings) == list(kind.__struct_fields__)
    for name, meaning in meanings.items():
        if IN_SECONDS.search(name):
            assert "second" in meaning.lower(), f"{name} does not say its unit"


def test_every_setting_of_the_runtime_is_described() -> None:
    assert all(field.description for field in Settings.model_fields.values())
