"""Agents of other people: how they are found, who starts them, and where the settings let them stand."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime import composition, guests
from runtime.agents import default_agents, turn_agents
from runtime.settings import Settings, environment, load_settings
from schemas.errors import SetupError

MODULE = """
import msgspec
from bus.agent import BaseAgent

class Plain(BaseAgent):
    name = "plain"

class Greeter(BaseAgent):
    name = "greeter"

    class Settings(msgspec.Struct):
        greeting: str = "Hello"

    def __init__(self, settings):
        self.settings = settings

class Hungry(BaseAgent):
    name = "hungry"

    def __init__(self, food):
        pass

class Nothing:
    name = "nothing"
"""


@pytest.fixture(autouse=True)
def guest_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "guest_module.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("KIKI_CONFIG", str(tmp_path / "kiki.toml"))
    yield
    sys.modules.pop("guest_module", None)


def with_tables(**tables: dict[str, Any]) -> Settings:
    return Settings(agents=tables)


def test_a_class_is_found_by_its_reference_by_a_table_and_by_an_entry_point(tmp_path: Path) -> None:
    assert composition.build_agent("guest_module:Plain", Settings()).name == "plain"
    table = {"class": "guest_module:Greeter", "greeting": "Moin"}
    built: Any = composition.build_agent("greeter", with_tables(greeter=table))
    assert built.settings.greeting == "Moin"

    distribution = tmp_path / "guest_distribution-1.0.dist-info"
    distribution.mkdir()
    (distribution / "METADATA").write_text("Metadata-Version: 2.1\nName: guest-distribution\nVersion: 1.0\n")
    (distribution / "entry_points.txt").write_text("[kiki.agents]\nplain = guest_module:Plain\n")
    assert composition.build_agent("plain", Settings()).name == "plain"
    assert "plain" not in guests.list_started(Settings())


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("no_module:Plain", "No module named 'no_module'"),
        ("guest_module:Absent", "there is no 'Absent' in guest_module: it has Plain, Greeter, Hungry"),
        (":Plain", "Empty module name"),
        ("guest_module:Hungry", "made without arguments"),
        ("guest_module:Nothing", "has no open, handlers, endpoints, status"),
    ],
)
def test_a_class_that_is_no_agent_is_refused_with_the_reason(reference: str, reason: str) -> None:
    with pytest.raises(SetupError, match=reason):
        composition.build_agent(reference, Settings())


def test_a_guests_own_settings_are_checked_and_a_strange_table_is_refused() -> None:
    with pytest.raises(SetupError, match=r"'agents\.greeter\.greting' does not exist: choose from greeting"):
        composition.build_agent("greeter", with_tables(greeter={"class": "guest_module:Greeter", "greting": "Moin"}))
    with pytest.raises(SetupError, match="settings of 'polish': Expected `bool`"):
        guests.list_expected(with_tables(polish={"external": "perhaps"}))
    with pytest.raises(SetupError, match="an agent of your own has 'class'"):
        composition.build_agent("catfish", with_tables(polish={"greeting": "Moin"}))
    with pytest.raises(SetupError, match=r"'router' is this runtime's own: set 'agents\.router\.external = true'"):
        guests.list_started(with_tables(router={"class": "guest_module:Plain"}))


@pytest.mark.parametrize(
    ("tables", "without", "started", "expected"),
    [
        ({}, (), {}, {}),
        ({"plain": {"class": "guest_module:Plain"}}, (), {"plain": True}, {"plain": False}),
        ({"polish": {"class": "m:P", "after": "router"}}, (), {"polish": True}, {"polish": True}),
        ({"rival": {"external": True}}, (), {"rival": False}, {"rival": True}),
        ({"router": {"external": True}}, (), {"router": False}, {"router": True}),
        ({"catfish": {"external": True}}, ("catfish",), {"catfish": False}, {"catfish": True}),
        ({}, ("catfish", "router"), {"catfish": False, "router": False}, {"catfish": False, "router": True}),
        ({"dream": {"external": True}}, (), {"dream": False}, {"dream": True}),
    ],
)
def test_an_agent_is_started_and_waited_for_as_its_table_says(
    tables: dict[str, Any], without: tuple[str, ...], started: dict[str, bool], expected: dict[str, bool]
) -> None:
    settings = Settings(agents=tables, without=without)
    everybody = dict.fromkeys(default_agents(), True) | started
    assert {name: name in guests.list_started(settings) for name in everybody} == everybody
    awaited = dict.fromkeys(turn_agents(), True) | expected
    assert {name: name in guests.list_expected(settings) for name in awaited} == awaited


def test_a_table_and_its_class_have_one_name() -> None:
    with pytest.raises(SetupError, match="'cleaner' is to start guest_module:Plain, whose name is 'plain'") as caught:
        composition.build_agent("cleaner", with_tables(cleaner={"class": "guest_module:Plain"}))
    assert caught.value.param == "agents.cleaner"


def test_nobody_is_left_out_who_is_not_there() -> None:
    with pytest.raises(SetupError, match="there is no agent 'catfsh' to leave out: choose from router") as caught:
        guests.list_started(Settings(without=("catfsh",)))
    assert caught.value.param == "without"


def test_children_leave_the_same_agents_out(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(without=("catfish", "dream"), debug=True)
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    child = load_settings()
    assert (child.without, child.debug) == (("catfish", "dream"), True)


def test_guests_stand_after_a_stage_one_after_the_other() -> None:
    tables = {"check": {"after": "polish"}, "polish": {"after": "router"}, "tidy": {"after": "negotiator"}}
    assert guests.chain_guests(with_tables(**tables)) == {
        "query.routed": ("polish", "check"),
        "negotiate.done": ("tidy",),
    }
    assert composition.bus_settings(with_tables(**tables)).guests == guests.chain_guests(with_tables(**tables))


@pytest.mark.parametrize(
    ("tables", "reason"),
    [
        ({"a": {"after": "router"}, "b": {"after": "router"}}, "'a' and 'b' both come after 'router'"),
        ({"a": {"after": "antibias"}}, "'a' comes after no stage: choose from router, memory, inference, negotiator"),
        ({"a": {"after": "b"}, "b": {"after": "a"}}, "comes after no stage"),
        ({"infer": {"after": "router"}}, "'infer' cannot be the noun of a subject"),
        ({"A B": {"after": "router"}}, "'A B' cannot be the noun of a subject"),
        ({"svc": {"after": "router"}}, "'svc' cannot be the noun"),
    ],
)
def test_a_place_that_does_not_exist_is_refused(tables: dict[str, Any], reason: str) -> None:
    with pytest.raises(SetupError, match=reason):
        guests.chain_guests(with_tables(**tables))


def test_a_module_with_a_fault_of_its_own_says_which(tmp_path: Path) -> None:
    (tmp_path / "guest_module.py").write_text("import os\nos.nothing_of_the_kind\n")
    with pytest.raises(SetupError, match=r"cannot be imported \(module 'os' has no attribute 'nothing_of_the_kind'\)"):
        composition.build_agent("guest_module:Plain", Settings())
