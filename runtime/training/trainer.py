"""Runs the training process and follows its messages."""

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec

from agents.inference.finetuning.messages import TrainingDone, TrainingJob, TrainingMessage, TrainingRefused
from schemas.errors import KikiError, SetupError, StageFailed

OnMessage = Callable[[TrainingMessage], None]

ENDING_SECONDS = 10.0
"""Seconds that the process has to end after it was told to."""

_TAIL_BYTES = 4096
_decoder = msgspec.json.Decoder(TrainingMessage)


def run_trainer(job: TrainingJob, folder: Path, *, lock: int, on_message: OnMessage) -> TrainingDone:
    """Train in a child process, which inherits the ``lock``; ``folder`` takes its job file and its log.

    ``on_message`` is called with each message. Where it raises, and where this process ends, so does the child.

    Raises:
        SetupError: the training is refused before its first step, or its data, recipe or disk must be mended.
        StageFailed: it failed on the way.
    """
    job_file, log_file = folder / "job.json", folder / "trainer.log"
    job_file.write_bytes(msgspec.json.encode(job))
    result: TrainingDone | None = None
    refusal: TrainingRefused | None = None
    with _start(job_file, log_file, lock) as process:
        assert process.stdout is not None
        for line in process.stdout:
            message = _decoder.decode(line)
            if isinstance(message, TrainingRefused):
                refusal = message
            elif isinstance(message, TrainingDone):
                result = message
            on_message(message)
        code = process.wait()
    if refusal is not None:
        raise _error_of(refusal)
    if result is None or code:
        raise StageFailed(_describe_end(code, log_file), code="inference_failed", param="trainer")
    return result


@contextmanager
def _start(job_file: Path, log_file: Path, lock: int) -> Iterator["subprocess.Popen[bytes]"]:
    """The running child. Its standard input is held open: its end is the child's end."""
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "agents.inference.finetuning.child", str(job_file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            pass_fds=(lock,),
            start_new_session=True,  # Ctrl-C is for this process, which ends the child
        )
    try:
        yield process
    finally:
        _close(process.stdin)
        watchdog = threading.Timer(ENDING_SECONDS, process.kill)
        watchdog.start()
        process.wait()
        watchdog.cancel()
        _close(process.stdout)


def _close(stream: IO[bytes] | None) -> None:
    if stream is not None:
        stream.close()


def _error_of(refusal: TrainingRefused) -> KikiError:
    kind = StageFailed if refusal.param == "loss" else SetupError
    return kind(refusal.text + ("" if refusal.text.endswith(".") else "."), param=refusal.param)


def _describe_end(code: int, log_file: Path) -> str:
    """Why a process ended that did not say it."""
    again = "the same command again goes on from the last checkpoint."
    if code < 0:
        return f"the training process was killed by signal {-code} (out of memory, perhaps): {again}"
    with log_file.open("rb") as log:
        log.seek(max(0, log_file.stat().st_size - _TAIL_BYTES))
        lines = log.read().decode(errors="replace").strip().splitlines()
    return f"the training process ended with code {code} ({lines[-1] if lines else 'no word'}): see {log_file}; {again}"
