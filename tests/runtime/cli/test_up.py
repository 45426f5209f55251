"""What ``kiki up`` has other processes do: models that are missing, and the first question."""

import time
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from runtime.cli import up
from runtime.settings import load_settings
from tests.e2e.conftest import free_port, start, stop

pytestmark = pytest.mark.anyio


def test_models_that_are_ready_start_no_process(
    small_model: Path, embedder_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], **options: object) -> None:
        raise AssertionError(command)

    monkeypatch.setattr("subprocess.run", run)
    up._fetch_models(load_settings(data_dir=tmp_path, model=str(small_model), embedder=str(embedder_path)))


async def test_a_first_question_that_fails_is_logged(tmp_path: Path) -> None:
    port = free_port()
    with capture_logs() as logs:
        await up._ask(load_settings(data_dir=tmp_path, port=port), "Why?")
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    error = f"nothing serves on {url}: start it with 'kiki up'."
    assert logs == [{"event": "first question failed", "error": error, "log_level": "error"}]


def test_the_first_question_is_answered_on_the_terminal(small_model: Path, embedder_path: Path, tmp_path: Path) -> None:
    runtime = start(tmp_path, "--ask", "Why is it so?", module="tests.fault.scripted")
    log = tmp_path / "up.log"
    try:
        while "serving on" not in log.read_text():
            assert runtime.process.poll() is None
            time.sleep(0.1)
    finally:
        stop(runtime)
    printed = log.read_text()
    question, answer = printed.index("\n> Why is it so?\n"), printed.index("\nYou asked: Why is it so?\n\nturn ")
    assert question < answer < printed.index("memory-write") < printed.index("serving on")
