"""The tutorial's own agent, settings and test, taken out of its text."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.e2e.conftest import start, stop
from tests.e2e.test_guests import ask, paths, read_turn

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", TUTORIAL.read_text(), re.MULTILINE | re.DOTALL)


def write_agent(folder: Path) -> None:
    agent, test = blocks("python")
    (folder / "brief.py").write_text(agent)
    (folder / "test_brief.py").write_text(test)


def test_the_tutorials_test_passes(tmp_path: Path) -> None:
    write_agent(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_brief.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout


def test_the_tutorials_agent_stands_in_the_turn(tmp_path: Path) -> None:
    write_agent(tmp_path)
    (settings,) = blocks("toml")
    tables = tomllib.loads(settings)["agents"]
    runtime = start(tmp_path, module="tests.fault.scripted", KIKI_AGENTS=json.dumps(tables), PYTHONPATH=paths(tmp_path))
    try:
        reply = ask(runtime, "What is a hash table?", kiki={"level": "full"})
        assert reply.status_code == 200, reply.text
        turn = read_turn(runtime, reply)
        assert "brief" in turn
        trace = runtime.kiki("trace", "--json", reply.headers["x-turn-id"])
        assert "Answer in one short sentence." in trace.stdout
    finally:
        stop(runtime)
