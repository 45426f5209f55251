"""The client's distribution and the examples, each in a process of its own, against a live runtime."""

import json
import os
import re
import shutil
import sys
import textwrap
import time
import tomllib
from pathlib import Path

import psutil
import pytest

from schemas.codec import decode, encode
from schemas.envelope import SCHEMA_VERSION, new_turn
from schemas.errors import InvalidEvent
from schemas.events import TurnFailed
from tests.e2e.conftest import Runtime
from tests.e2e.outside import find_broker, run_outside

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "deploy" / "client"
EXAMPLES = CLIENT / "examples"
QUESTION = "What is the capital of France?"


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


def test_the_client_passes_over_what_a_newer_runtime_adds(python: Path) -> None:
    event = TurnFailed(
        envelope=new_turn(tenant="t", timeout=9), stage="router", code="unavailable", message="m", retryable=True
    )
    body = json.loads(encode(event))
    newer = {**body, "since": 6, "envelope": {**body["envelope"], "colour": "red"}}
    program = (
        "import sys; from micro_kiki_client import TurnFailed; from micro_kiki_client.schemas.codec import decode; "
        "print(decode(TurnFailed, sys.argv[1].encode()).stage)"
    )
    result = run_outside([str(python), "-c", program, json.dumps(newer)])
    assert (result.returncode, result.stdout) == (0, "router\n"), result.stderr
    with pytest.raises(InvalidEvent, match="since"):
        decode(TurnFailed, json.dumps({**body, "since": 6}).encode())


def test_the_python_example_prints_a_streamed_answer(runtime: Runtime, python: Path) -> None:
    result = run_outside([str(python), str(EXAMPLES / "ask.py"), QUESTION], find_broker(runtime))
    assert result.returncode == 0, result.stderr
    assert "Paris" in result.stdout


def test_the_reader_of_the_howto_reads_each_record_once(runtime: Runtime, python: Path, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "howto" / "read-the-record.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^ *```python\n(.*?)^ *```", page, re.DOTALL | re.MULTILINE)
    program = textwrap.dedent(blocks[0])
    assert program.count('"nats://127.0.0.1:4222"') == 1
    reader = tmp_path / "digest.py"
    reader.write_text(program.replace("nats://127.0.0.1:4222", runtime.nats))
    question = "Which city is the capital of Austria?"
    asked = run_outside([str(python), str(EXAMPLES / "ask.py"), question], find_broker(runtime))
    assert asked.returncode == 0, asked.stderr
    first, second = (run_outside([str(python), str(reader), run], find_broker(runtime)) for run in ("run-1", "run-2"))
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert first.stdout.count(f"{question} -> ") == 1
    assert question not in second.stdout


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


@pytest.mark.skipif(shutil.which("jq") is None, reason="jq is not here")
def test_nothing_of_the_shell_example_runs_after_it(runtime: Runtime, path_with_nats: str) -> None:
    environment = {**find_broker(runtime), "PATH": path_with_nats, "WAIT": "3"}
    for _ in range(2):
        assert run_outside(["bash", str(EXAMPLES / "ask.sh"), QUESTION], environment).returncode == 0
    end = time.monotonic() + 5
    while left := [command for command in list_commands() if "kiki.infer.token." in command]:
        assert time.monotonic() < end, left
        time.sleep(0.1)


def list_commands() -> list[str]:
    """The command lines of all processes."""
    processes = psutil.process_iter(["cmdline"])
    return [" ".join(process.info["cmdline"] or ()) for process in processes]


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
