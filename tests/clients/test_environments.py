"""Where the stock clients run, and what is said where they cannot."""

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tests.clients import environments
from tests.clients.catalogue import CLIENTS, Language
from tests.clients.environments import BuildFailed, ToolchainMissing, prepare, run

BY_LANGUAGE = {client.language: client for client in CLIENTS}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setattr(environments, "CACHE", tmp_path / "cache")
    return tmp_path / "cache"


@pytest.mark.parametrize("language", ["Node", "Go", "Java", "Rust"])
def test_without_its_toolchain_a_client_says_what_is_missing(
    language: Language, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolchainMissing, match="not here"):
        prepare(BY_LANGUAGE[language])


def test_a_lock_that_cannot_be_installed_says_why(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lock = tmp_path / "absent.txt"
    lock.write_text("kiki-no-such-package==0\n")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    client = replace(BY_LANGUAGE["Python"], lock=str(lock))
    with pytest.raises(BuildFailed, match="kiki-no-such-package"):
        prepare(client)
    assert not list(cache.glob("*/complete")), "half an environment counts as built"


def test_a_program_sees_nothing_of_the_main_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    monkeypatch.setenv("KIKI_MODEL", "another")
    script = "import os; print([name for name in os.environ if name.startswith(('KIKI', 'PYTHON'))])"
    assert run([sys.executable, "-c", script], timeout=30).output.strip() == "[]"


def test_a_program_that_runs_too_long_ends_with_what_it_started(tmp_path: Path) -> None:
    child = "import time, pathlib, os; pathlib.Path('child').write_text(str(os.getpid())); time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    outcome = run([sys.executable, "-c", parent], timeout=3, cwd=tmp_path)
    assert outcome.status is None
    pid = int((tmp_path / "child").read_text())
    end = time.monotonic() + 5
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end, "the program's own process goes on"
        time.sleep(0.05)
