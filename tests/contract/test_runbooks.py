"""The commands of the gate's runbooks, and the steps of its workflow, are run as they are written."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from runtime.cli.__main__ import MODULES
from tests.adapters import write_adapter, write_tiny_model

ROOT = Path(__file__).parents[2]
HOWTO = ROOT / "docs" / "howto"
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "validators.yml").read_text())
INSTALL = {"Install"}
"""Steps that fetch packages and models: they are make's targets, whose names another test holds."""


@pytest.fixture(scope="module")
def environment(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """``kiki`` and ``python`` of this tree on the path, a tiny base, two adapters that are there and a new one."""
    root = tmp_path_factory.mktemp("runbooks")
    (root / "bin").mkdir()
    for name, arguments in (("kiki", "-m runtime.cli"), ("python", "")):
        script = root / "bin" / name
        script.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        script.chmod(0o755)
    model = write_tiny_model(small_model, root / "base")
    for seed, name in enumerate(("stack-01-chat-fr", "stack-02-reasoning")):
        write_adapter(model, root / "stacks", name, seed=seed)
    new = write_adapter(model, root / "new", "stack-03-python", seed=7)
    path = os.pathsep.join((str(root / "bin"), os.environ["PATH"]))
    places = {
        "PATH": path,
        "PYTHONPATH": str(ROOT),
        "NEW": str(new),
        "STACKS": str(root / "stacks"),
        "BASE": str(model),
    }
    return {**os.environ, **places}


def run(script: str, environment: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run as GitHub runs a step: the first command that fails ends it."""
    command = ["bash", "-e", "-o", "pipefail", "-c", script]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=folder)


@pytest.mark.parametrize("page", ["forgetting-gate.md", "gate-smoke.md"])
def test_a_runbook_runs_from_its_first_command_to_its_last(
    page: str, environment: dict[str, str], tmp_path: Path
) -> None:
    if shutil.which("jq") is None:
        pytest.skip("jq is not installed")
    blocks = re.findall(r"```bash\n(.*?)```", (HOWTO / page).read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 2
    for block in blocks:
        result = run(block, environment, tmp_path)
        assert result.returncode == 0, f"{block}\n{result.stdout}\n{result.stderr}"


def test_the_runbook_lists_the_verdicts_by_their_codes() -> None:
    table = re.findall(r"^\| (\d+) \|", (HOWTO / "forgetting-gate.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert table == ["0", "1", "2", "3", "64"]


def steps() -> list[Any]:
    return [
        pytest.param(step["run"], id=f"{job}: {step['name']}")
        for job, content in WORKFLOW["jobs"].items()
        for step in content["steps"]
        if "run" in step and step["name"] not in INSTALL
    ]


@pytest.mark.parametrize("script", steps())
def test_a_step_of_the_workflow_succeeds(script: str, environment: dict[str, str], tmp_path: Path) -> None:
    """Steps that are tests are only collected here: this suite runs them anyway."""
    if script.startswith("kiki ") and script.split()[1] not in MODULES:
        pytest.skip(f"there is no 'kiki {script.split()[1]}' yet")
    own = environment | {"GITHUB_PATH": str(tmp_path / "path"), "PYTEST_ADDOPTS": "--collect-only -q"}
    result = run(script, own, ROOT)
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    if "pytest" in script:
        collected = [line for line in result.stdout.splitlines() if "::test_" in line]
        assert len(collected) >= 5


def test_the_workflow_has_its_two_jobs_and_each_installs_first() -> None:
    assert set(WORKFLOW["jobs"]) == {"config-invariants", "forgetting"}
    for job in WORKFLOW["jobs"].values():
        names = [step.get("name", "") for step in job["steps"]]
        assert INSTALL & set(names)
        makes = [target for step in job["steps"] if step.get("name") in INSTALL for target in step["run"].split()[1:]]
        makefile = (ROOT / "Makefile").read_text()
        assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in makes)


def test_the_forgetting_job_tests_every_exit_code() -> None:
    scripts = " ".join(step.get("run", "") for step in WORKFLOW["jobs"]["forgetting"]["steps"])
    assert "tests/runtime/cli/test_gates.py" in scripts
    source = (ROOT / "tests/runtime/cli/test_gates.py").read_text()
    assert {int(code) for code in re.findall(r"^def test_(\d+)_", source, re.MULTILINE)} == {0, 1, 2, 3, 64}
