"""The examples of docs/examples and of the client's readme, each in a process of its own, against a live runtime."""

import ast
import json
import os
import re
import shutil
import time
import tokenize
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from agents.shared.domains import load_taxonomy
from tests.e2e.conftest import Runtime, launch, list_violations, start, stop, wait_until_ready
from tests.e2e.outside import find_broker, run_beside, run_outside

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
README = ROOT / "deploy" / "client" / "README.md"
RIVAL = EXAMPLES / "agent_rival" / "rival.py"
READER = EXAMPLES / "reader"
MOST_LINES = 30

pytestmark = pytest.mark.timeout(400)


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory, embedder_path: Path) -> Iterator[Runtime]:
    """A whole runtime whose worker answers at once, without a model."""
    running = start(tmp_path_factory.mktemp("scripted"), module="tests.fault.scripted")
    yield running
    stop(running)
    assert list_violations(running) == []


def ask(runtime: Runtime, question: str, *, level: str = "full") -> str:
    """Ask a question over HTTP; returns the turn's id."""
    body = {"model": "micro-kiki", "messages": [{"role": "user", "content": question}], "kiki": {"level": level}}
    reply = httpx.post(f"{runtime.http}/v1/chat/completions", json=body, timeout=60)
    assert reply.status_code == 200, reply.text
    return reply.headers["x-turn-id"]


def read_events(runtime: Runtime, turn_id: str) -> dict[str, dict[str, Any]]:
    """The turn's stored events by their subject."""
    events = httpx.get(f"{runtime.http}/v1/turns/{turn_id}", timeout=30).json()["events"]
    return {event["subject"]: event["event"] for event in events}


def wait_for(check: Callable[[], Any], *, seconds: float = 60.0) -> Any:
    """What ``check`` gives once that is truthy."""
    end = time.monotonic() + seconds
    while not (value := check()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.2)
    return value


def list_agents(runtime: Runtime) -> set[str]:
    return {agent["agent"] for agent in httpx.get(f"{runtime.http}/ready", timeout=10).json().get("agents", ())}


def test_of_a_rival_beside_the_catfish_the_first_verdict_counts(
    scripted: Runtime, python: Path, tmp_path: Path
) -> None:
    environment = {**find_broker(scripted), "AGENT_NAME": "rival"}
    with run_beside([str(python), str(RIVAL)], environment, tmp_path / "rival.log"):
        wait_for(lambda: "rival" in list_agents(scripted))
        for number in range(5):
            events = read_events(scripted, ask(scripted, f"What is {number} times 7?"))
            (verdict,) = [event for subject, event in events.items() if subject.startswith("dissent.")]
            assert events["answer.ready"]["negotiation"]["dissent"] == verdict["dissent"]
    assert "Traceback" not in (tmp_path / "rival.log").read_text()


def test_a_rival_in_the_catfishs_place_makes_the_runtime_ready_and_is_heard(
    python: Path, tmp_path: Path, embedder_path: Path
) -> None:
    external = json.dumps({"catfish": {"external": True}})
    runtime = launch(tmp_path, module="tests.fault.scripted", KIKI_AGENTS=external)
    try:
        wait_for(lambda: describe_ready(runtime) == (503, "not ready: catfish (does not answer)."), seconds=120)
        environment = {**find_broker(runtime), "AGENT_NAME": "catfish"}
        with run_beside([str(python), str(RIVAL)], environment, tmp_path / "rival.log"):
            wait_until_ready(runtime)
            began = time.monotonic()
            events = read_events(runtime, ask(runtime, "What is the capital of France?"))
            assert time.monotonic() - began < 10, "the negotiator waited for somebody who is not there"
            assert events["dissent.raised"]["dissent"]["reason"] == "all say the same"
            assert events["answer.ready"]["negotiation"]["dissent"] == events["dissent.raised"]["dissent"]
            assert "catfish" in [timing["stage"] for timing in events["answer.ready"]["timings"]]
        wait_for(lambda: describe_ready(runtime)[0] == 503)
    finally:
        stop(runtime)
    assert list_violations(runtime) == []


def describe_ready(runtime: Runtime) -> tuple[int, str]:
    """The status of ``/ready`` and what it says is missing; 0 while nobody listens."""
    try:
        reply = httpx.get(f"{runtime.http}/ready", timeout=10)
    except httpx.TransportError:
        return 0, ""
    return reply.status_code, "" if reply.status_code == 200 else reply.json()["error"]["message"]


def record_turns(runtime: Runtime, *questions: str) -> None:
    """Ask, and wait until the turns are in the record."""
    for question in questions:
        turn_id = ask(runtime, question, level="fast")
        wait_for(lambda turn_id=turn_id: "episode.recorded" in read_events(runtime, turn_id))  # type: ignore[misc]


@pytest.fixture(params=["python", "go"])
def reader(request: pytest.FixtureRequest, python: Path, tmp_path: Path) -> list[str]:
    """The command of a reader."""
    if request.param == "python":
        return [str(python), str(READER / "reader.py")]
    if shutil.which("go") is None:
        pytest.skip("go is not here")
    build = run_outside(["go", "build", "-o", str(tmp_path / "reader"), "."], cwd=READER)
    if build.returncode != 0 and os.environ.get("CI") != "true" and "dial tcp" in build.stderr:
        pytest.skip(f"nats.go cannot be fetched: {build.stderr[-300:]}")
    assert build.returncode == 0, build.stderr
    return [str(tmp_path / "reader")]


def test_a_reader_reads_each_record_once_and_goes_on_where_it_stopped(
    scripted: Runtime, reader: list[str], request: pytest.FixtureRequest
) -> None:
    name = f"reader-{request.node.callspec.params['reader']}"
    record_turns(scripted, f"first {name}", f"second {name}")
    first, second = read_all(scripted, reader, name), read_all(scripted, reader, name)
    assert (f"first {name}" in first, f"second {name}" in first, second) == (True, True, "")
    record_turns(scripted, f"third {name}")
    third = read_all(scripted, reader, name)
    assert f"third {name}" in third
    assert f"first {name}" not in third
    assert len(third.splitlines()) == 1


def read_all(runtime: Runtime, reader: list[str], name: str) -> str:
    """What the reader prints until no record comes for a second."""
    result = run_outside([*reader, name, "1"], find_broker(runtime))
    assert result.returncode == 0, result.stderr
    return result.stdout


def programs_of(page: Path, runtime: Runtime, folder: Path) -> list[Path]:
    """The page's Python programs as files, with the runtime's broker in the place of the default one."""
    paths = []
    for number, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)):
        assert "nats://127.0.0.1:4222" in block
        paths.append(folder / f"program_{number}.py")
        paths[-1].write_text(block.replace("nats://127.0.0.1:4222", runtime.nats))
    return paths


def test_the_programs_of_the_clients_readme_run_and_run_again(scripted: Runtime, python: Path, tmp_path: Path) -> None:
    client, agent = programs_of(README, scripted, tmp_path)
    for _ in range(2):
        result = run_outside([str(python), str(client)], find_broker(scripted))
        assert result.returncode == 0, result.stderr
        assert "You asked: What is the capital of France?" in result.stdout
    with run_beside([str(python), str(agent)], find_broker(scripted), tmp_path / "agent.log"):
        wait_for(lambda: "word-counter" in list_agents(scripted))
        turn_id = ask(scripted, "How many words?", level="fast")
        wait_for(lambda: f"{turn_id} 5 words" in (tmp_path / "agent.log").read_text())


def test_the_examples_page_names_every_domain() -> None:
    section = (EXAMPLES / "README.md").read_text(encoding="utf-8").partition("These are the domains:\n\n")[2]
    assert set(re.findall(r"`([^`]+)`", section.partition("\n\n")[0])) == set(load_taxonomy().domains)


def count_code_lines(path: Path) -> int:
    """Lines with code, without those that are blank or hold a comment or a docstring alone."""
    with path.open("rb") as source:
        tokens = list(tokenize.tokenize(source.readline))
    empty = {tokenize.ENCODING, tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
             tokenize.ENDMARKER}  # fmt: skip
    lines = {line for token in tokens if token.type not in empty for line in range(token.start[0], token.end[0] + 1)}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and ast.get_docstring(
            node
        ):
            docstring = node.body[0]
            lines -= set(range(docstring.lineno, (docstring.end_lineno or docstring.lineno) + 1))
    return len(lines)


def test_lines_of_code_are_counted_without_words_for_people(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_text(
        '"""A page.\n\nMore.\n"""\n\n# why\nx = (\n    1,  # one\n)\n\n\ndef f():\n    """Do."""\n    return x\n'
    )
    assert count_code_lines(path) == 5


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*/*.py")), ids=lambda path: path.stem)
def test_an_example_is_short(path: Path) -> None:
    assert count_code_lines(path) <= MOST_LINES
    results = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert f"| `{path.relative_to(EXAMPLES).as_posix()}` | {count_code_lines(path)} |" in results
