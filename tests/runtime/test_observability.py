"""Logs as lines for people or for programs, from a process of its own: the settings are the process's."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import IO

import pytest

SCRIPT = """
import logging, sys
import structlog
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from runtime import observability
from runtime.settings import load_settings

observability.configure(load_settings(), service="memory")
log = structlog.get_logger("tests")
structlog.contextvars.bind_contextvars(turn_id="turn-1")
log.debug("too small")
log.info("record written", sequence=7)
with TracerProvider().get_tracer("tests").start_as_current_span("memory"):
    log.warning("path degraded", error="disk")
try:
    secret_of_a_variable = 1 / 0
except ZeroDivisionError:
    log.exception("fault")
logging.getLogger("library").warning("a library speaks")
logging.getLogger("library").info("a library whispers")
print("went on")
"""


def run_logging(tmp_path: Path, stderr: int | IO[bytes] = subprocess.PIPE, **variables: str) -> tuple[str, str]:
    """What a process that logs prints, on both streams. It must end well, but for Python's own code 120: the streams
    could not be flushed at its end."""
    environment = {
        "KIKI_CONFIG": str(tmp_path / "none.toml"),
        "PYTHONPATH": str(Path(__file__).parents[2]),
        **variables,
    }
    command = [sys.executable, "-c", SCRIPT]
    outcome = subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, env=environment, check=False)
    assert outcome.returncode in (0, 120), outcome.stderr
    return outcome.stdout.decode(), (outcome.stderr or b"").decode()


@pytest.mark.parametrize("form", ["auto", "json"])
def test_a_program_reads_a_line_of_json_for_each_event(tmp_path: Path, form: str) -> None:
    _, text = run_logging(tmp_path, KIKI_LOG_FORMAT=form)
    lines = text.splitlines()
    written, degraded, fault = (json.loads(line) for line in lines if line.startswith("{"))
    assert re.fullmatch(r"20\d\d-.*Z", written.pop("timestamp"))
    assert written == {
        "agent": "memory", "event": "record written", "level": "info", "sequence": 7, "turn_id": "turn-1",
    }  # fmt: skip
    assert (len(degraded["trace_id"]), len(degraded["span_id"]), degraded["error"]) == (32, 16, "disk")
    assert "ZeroDivisionError" in fault["exception"]
    assert [line for line in lines if "library" in line] == ["WARNING library a library speaks"]


def test_a_person_reads_lines_without_colours_in_a_file(tmp_path: Path) -> None:
    _, text = run_logging(tmp_path, KIKI_LOG_FORMAT="console")
    assert "record written" in text
    assert "\x1b[" not in text
    assert "ZeroDivisionError: division by zero" in text
    assert "too small" not in text


@pytest.mark.parametrize(("level", "events"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_a_level_leaves_out_what_is_below_it(tmp_path: Path, level: str, events: int) -> None:
    _, text = run_logging(tmp_path, KIKI_LOG_FORMAT="json", KIKI_LOG_LEVEL=level)
    assert sum(line.startswith("{") for line in text.splitlines()) == events


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_a_log_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    with Path("/dev/full").open("wb", buffering=0) as full:
        printed, _ = run_logging(tmp_path, full, KIKI_LOG_FORMAT="json")
    assert printed == "went on\n"
