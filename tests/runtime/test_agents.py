"""What follows from the registry: an agent that is added there is known wherever agents are listed, and only there."""

import ast
import contextlib
import importlib.util
import re
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from bus.agent import Endpoint
from bus.connection import Bus
from bus.handler import Handler
from bus.testing import run_agents
from runtime import agents, composition, doctor
from runtime.agents import (
    FACADE,
    AgentSpec,
    Need,
    Position,
    Stage,
    all_agents,
    default_agents,
    turn_agents,
    turn_stages,
)
from runtime.cli import up
from runtime.composition import group_by_process
from runtime.facade import FacadeSettings
from runtime.settings import Settings
from runtime.supervisor import Supervisor
from runtime.turns.waterfall import waterfall
from schemas.errors import SetupError
from schemas.events import QueryReceived, QueryRouted
from schemas.findings import StageTiming
from schemas.status import StatusReply
from tests.runtime.turns.test_waterfall import BEGAN, ENVELOPE, QUERY, ROUTE, ROUTER, make_story

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings but the defaults, and an empty data folder."""
    monkeypatch.setenv("KIKI_CONFIG", str(tmp_path / "none.toml"))
    monkeypatch.setenv("KIKI_DATA_DIR", str(tmp_path))


class Oracle:
    """An agent for the tests."""

    name = "oracle"

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @contextlib.asynccontextmanager
    async def open(self, _: Bus) -> AsyncIterator[None]:
        yield

    def handlers(self) -> Sequence[Handler[Any]]:
        return ()

    def endpoints(self) -> Sequence[Endpoint]:
        return ()

    def status(self) -> StatusReply:
        return StatusReply(agent=self.name, ready=True)


def register(
    monkeypatch: pytest.MonkeyPatch,
    *,
    process: str | None = None,
    need: Need = "turn",
    position: Position | None = None,
) -> None:
    """Add the oracle in front of all others."""
    stages = () if position is None else (Stage("oracle", position),)
    spec = AgentSpec(name="oracle", build=Oracle, stages=stages, process=process, need=need)
    monkeypatch.setattr(agents, "REGISTRY", (spec, *agents.REGISTRY))


def test_an_agent_is_built_by_its_name_and_an_unknown_one_is_refused_with_all_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    register(monkeypatch)
    settings = Settings()
    built = composition.build_agent("oracle", settings)
    assert isinstance(built, Oracle)
    assert built.settings is settings
    names = r"oracle, router, embedder, memory, .*, nerve-wml, kiki-flow, facade, or give"
    with pytest.raises(SetupError, match=f"there is no agent 'orakel': choose from {names}"):
        composition.build_agent("orakel", settings)


@pytest.mark.parametrize(("process", "expected"), [("cognition", "cognition"), (None, "oracle")])
def test_an_agent_lies_in_the_process_that_it_shares_or_in_its_own(
    monkeypatch: pytest.MonkeyPatch, process: str | None, expected: str
) -> None:
    register(monkeypatch, process=process)
    groups = group_by_process((*default_agents(), FACADE))
    assert [name for name, members in groups.items() if "oracle" in members] == [expected]
    assert groups["cognition"][-3:] == ("catfish", "negotiator", "antibias")


@pytest.mark.parametrize(
    ("need", "is_started", "is_awaited"), [("turn", True, True), ("runtime", True, False), ("choice", False, False)]
)
def test_an_agent_is_started_and_awaited_by_those_who_need_it(
    monkeypatch: pytest.MonkeyPatch, need: Need, is_started: bool, is_awaited: bool
) -> None:
    register(monkeypatch, need=need)
    assert ("oracle" in Supervisor(Settings()).names) is is_started
    assert ("oracle" in FacadeSettings().expected_agents) is is_awaited
    assert "oracle" in all_agents()


@pytest.mark.anyio
async def test_the_doctor_misses_an_agent_that_turns_need(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)
    settings = Settings(nats=bus.settings.url)
    findings = {finding.name: finding for finding in await doctor.examine(settings)}
    assert (findings["agents"].state, findings["agents"].mend) == ("wrong", "'kiki run oracle' or 'kiki up'")
    async with run_agents(bus, Oracle(settings)):
        findings = {finding.name: finding for finding in await doctor.examine(settings)}
    assert findings["agents"].detail == "oracle"
    assert findings["agents"].mend == "'kiki run router' or 'kiki up'"


def test_the_help_of_run_lists_an_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)
    assert up.__file__ is not None
    spec = importlib.util.spec_from_file_location("up_again", up.__file__)
    assert spec is not None
    assert spec.loader is not None
    again = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(again)
    app = typer.Typer()
    again.add_verbs(app)
    command: Any = typer.main.get_command(app)
    (argument,) = command.commands["run"].params
    assert argument.help == ", ".join((*all_agents(), FACADE, "package.module:Class"))
    assert argument.help.startswith("oracle, router, embedder")


@pytest.mark.parametrize(("position", "total"), [("awaited", 0.09), ("beside", 0.09), ("after", 0.05)])
def test_a_stage_has_its_place_in_the_waterfall(
    monkeypatch: pytest.MonkeyPatch, position: Position, total: float
) -> None:
    register(monkeypatch, position=position)
    names = [stage.name for stage in turn_stages()]
    others = ["router", "memory", "inference", "catfish", "negotiator", "antibias", "memory-write"]
    assert names == (["oracle", *others] if position != "after" else [*others[:-1], "oracle", others[-1]])
    timing = StageTiming(stage="oracle", started_at=BEGAN + 0.06, finished_at=BEGAN + 0.09)
    routed = QueryRouted(envelope=ENVELOPE, query=QUERY, route=ROUTE, timings=(ROUTER, timing))
    picture = waterfall(make_story(QueryReceived(envelope=ENVELOPE, query=QUERY), routed))
    assert [row.stage for row in picture.rows] == ["router", "oracle"]
    assert round(picture.total, 3) == total, "what comes after the answer is not waited for"


def test_the_registry_holds_the_agents_of_a_turn_in_its_order() -> None:
    assert turn_agents() == ("router", "embedder", "memory", "inference", "catfish", "negotiator", "antibias")
    assert default_agents() == (*turn_agents(), "services", "tenants", "dream", "gates")
    assert all_agents() == (*default_agents(), "nerve-wml", "kiki-flow")


def test_every_process_has_its_container() -> None:
    compose = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text(encoding="utf-8"))
    commands = {name: service.get("command", []) for name, service in compose["services"].items()}
    containers = {name: tuple(command[1:]) for name, command in commands.items() if command[:1] == ["run"]}
    assert containers == group_by_process((*default_agents(), FACADE))


def test_the_linter_names_no_agent_but_the_worker() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert set(re.findall(r"agents\.([a-z_]+)", text)) == {"shared", "inference"}


def test_an_agent_that_answers_requests_stands_in_no_other_list() -> None:
    """The embedder's name stands in no list of names in code, and in data only where its container is."""
    listed = set()
    for path in python_files():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            parts = node.elts if isinstance(node, ast.List | ast.Tuple | ast.Set) else []
            parts += [key for key in node.keys if key is not None] if isinstance(node, ast.Dict) else []
            if any(isinstance(part, ast.Constant) and part.value == "embedder" for part in parts):
                listed.add(path.relative_to(ROOT).as_posix())
    assert listed == set()
    data = [path for path in (ROOT / "deploy").iterdir() if path.is_file()]
    data += [ROOT / "pyproject.toml", ROOT / "Makefile", *(ROOT / "configs").glob("*.yaml")]
    named = {path.name for path in data if re.search(r"\bembedder\b", path.read_text(encoding="utf-8"))}
    assert named == {"compose.yaml"}
    registrations = [path for path in python_files() if 'AgentSpec(name="embedder"' in path.read_text(encoding="utf-8")]
    assert registrations == [ROOT / "runtime" / "agents.py"]


def python_files() -> list[Path]:
    return [path for room in ("schemas", "bus", "agents", "runtime", "deploy") for path in (ROOT / room).rglob("*.py")]


@pytest.mark.parametrize(("heading", "limit"), [("A new agent that answers requests", 5), ("A new stage", 12)])
def test_a_new_agent_touches_few_places_and_they_exist(heading: str, limit: int) -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL)
    assert section is not None
    places = re.findall(r"^\d+\. `([^`]+)`", section[1], re.MULTILINE)
    assert 0 < len(places) <= limit
    assert len(places) == len(set(places)) == len(re.findall(r"^\d+\. ", section[1], re.MULTILINE))
    example = {"agents/<name>/": "agents/embedder/", "schemas/<name>.py": "schemas/embedder.py"}
    example["agents/<next>/"] = "agents/negotiator/"
    assert [place for place in places if not (ROOT / example.get(place, place)).exists()] == []


def test_no_agent_is_missing_from_the_registry() -> None:
    """Each package of ``agents/`` with an agent is built by the registry."""
    source = (ROOT / "runtime" / "agents.py").read_text(encoding="utf-8")
    packages = {path.parent.name for path in (ROOT / "agents").glob("*/agent.py")}
    assert {name for name in packages if f"from agents.{name}.agent import" not in source} == set()
