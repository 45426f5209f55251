"""The client's distribution and the examples, each in a process of its own, against a live runtime."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
import venv
from collections.abc import Mapping
from pathlib import Path

import pytest

from schemas.envelope import SCHEMA_VERSION
from tests.e2e.conftest import Runtime
from tests.supply.locking import LOCKS, read_pins

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "deploy" / "client"
EXAMPLES = CLIENT / "examples"
NOTHING: Mapping[str, str] = {}
QUESTION = "What is the capital of France?"


def run_outside(command: list[str], environment: Mapping[str, str] = NOTHING) -> subprocess.CompletedProcess[str]:
    """Run outside the repository, without its path."""
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        command, env={**clean, **environment}, cwd="/", capture_output=True, text=True, timeout=120, check=False
    )


def find_broker(runtime: Runtime) -> dict[str, str]:
    """The environment of a program that finds the broker and its owner's login."""
    return {"NATS_URL": runtime.nats, "KIKI_DATA_DIR": str(runtime.data_dir)}


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh virtual environment with the client's wheel and what it asks for, nothing else."""
    folder = tmp_path_factory.mktemp("client")
    source = folder / "tree"
    for part in ("schemas", "bus", "deploy/client"):
        shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("node_modules", "src", "__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    wheel_build = run_outside([*pip, "wheel", "--no-deps", "-w", str(folder), str(source / "deploy" / "client")])
    assert wheel_build.returncode == 0, wheel_build.stderr
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=False)
    inside = folder / "venv" / "bin" / "python"
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(map(str, read_pins(LOCKS / "runtime.txt").values())))
    installation = run_outside([*pip, "--python", str(inside), "install", "-c", str(constraints), str(wheel)])
    assert installation.returncode == 0, installation.stderr
    return inside


def test_another_service_does_everything_with_the_client_alone(runtime: Runtime, python: Path) -> None:
    result = run_outside([str(python), str(Path(__file__).with_name("stranger.py"))], find_broker(runtime))
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["foreign"] == []
    assert "micro_kiki_client.schemas.services" in report["modules"]
    assert report["registered"] == "stranger"
    assert report["taken"] == ["name_taken", "name"]
    assert "Paris" in report["text"]
    assert len(report["pieces"]) > 2
    assert "".join(report["pieces"]).strip() == report["text"].strip()
    assert report["routed"] == report["answered"] == report["turn"]
    assert report["failed"][0] == "model_not_found"
    assert report["turn"] in report["fetched"]
    assert report["skipped"] == ["not_delivered", "ids"]
    assert report["marked"] == len(report["fetched"])
    assert report["replayed"] == [report["turn"]]
    assert report["lag"] == [0]
    again = runtime.kiki("replay", report["turn"], "--again")
    assert again.returncode == 0, again.stderr
    assert "word for word" in again.stdout or "recorded" in again.stdout


def test_the_python_example_prints_a_streamed_answer(runtime: Runtime, python: Path) -> None:
    result = run_outside([str(python), str(EXAMPLES / "ask.py"), QUESTION], find_broker(runtime))
    assert result.returncode == 0, result.stderr
    assert "Paris" in result.stdout


@pytest.mark.node
@pytest.mark.skipif(
    shutil.which("node") is None or not (EXAMPLES / "node_modules").exists(),
    reason="npm's packages for the TypeScript example are not here",
)
def test_the_typescript_example_prints_a_streamed_answer(runtime: Runtime) -> None:
    binaries = EXAMPLES / "node_modules" / ".bin"
    options = ["--noEmit", "--strict", "--skipLibCheck", "--target", "es2022", "--module", "nodenext"]
    types = ["--typeRoots", str(EXAMPLES / "node_modules" / "@types"), "--types", "node"]
    type_check = run_outside([str(binaries / "tsc"), *options, *types, str(EXAMPLES / "ask.ts")])
    assert type_check.returncode == 0, type_check.stdout
    result = run_outside([str(binaries / "tsx"), str(EXAMPLES / "ask.ts"), QUESTION], find_broker(runtime))
    assert result.returncode == 0, result.stderr
    assert "Paris" in result.stdout


@pytest.fixture
def path_with_nats(tmp_path: Path) -> str:
    """A PATH on which ``nats`` is: the stock one, or a stand-in that sends the same requests."""
    path = os.environ["PATH"]
    if shutil.which("nats") is not None:
        return path
    stand_in = tmp_path / "nats"
    stand_in.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).with_name("natscli.py")}" "$@"\n')
    stand_in.chmod(0o755)
    return f"{tmp_path}:{path}"


@pytest.mark.jq
@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not here")
def test_the_shell_example_prints_a_streamed_answer(runtime: Runtime, path_with_nats: str) -> None:
    result = run_outside(
        ["bash", str(EXAMPLES / "ask.sh"), QUESTION], {**find_broker(runtime), "PATH": path_with_nats, "WAIT": "3"}
    )
    assert result.returncode == 0, result.stderr
    assert "Paris" in result.stdout
    assert "tokens, model" in result.stdout


@pytest.mark.parametrize("name", ["ask.ts", "ask.sh"])
def test_the_examples_speak_the_present_version(name: str) -> None:
    assert f"schema_version: {SCHEMA_VERSION}" in (EXAMPLES / name).read_text(encoding="utf-8")


@pytest.mark.jq
@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not here")
def test_the_shell_example_prints_nothing_that_steers_the_terminal(tmp_path: Path) -> None:
    """A stand-in for ``nats`` streams a hostile answer."""
    token = json.dumps({"kind": "content", "text": "Pa\x1b]0;title\x07\x9b31mris\x7f\n\u00e9"})
    end = json.dumps({"usage": {"completion_tokens": 1}, "inference": {"model": "m"}})
    stand_in = tmp_path / "nats"
    stand_in.write_text(
        f"#!/bin/sh\ncase \"$*\" in *token*) printf '%s' '{token}';; *answer*) sleep 1; printf '%s' '{end}';; esac\n"
    )
    stand_in.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    result = run_outside(["bash", str(EXAMPLES / "ask.sh"), QUESTION], {"PATH": path, "WAIT": "0.1"})
    assert result.returncode == 0, result.stderr
    assert "Pa]0;title31mris\n\u00e9" in result.stdout
    assert not set(result.stdout) & set("\x1b\x07\x9b\x7f")


def test_the_client_has_the_runtimes_version() -> None:
    versions = {
        tomllib.loads(path.read_text(encoding="utf-8"))["project"]["version"]
        for path in (ROOT / "pyproject.toml", CLIENT / "pyproject.toml")
    }
    assert len(versions) == 1
