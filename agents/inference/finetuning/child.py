"""The training process: ``python -m agents.inference.finetuning.child JOB.json``.

Its standard output carries a line of JSON for each message (:mod:`agents.inference.finetuning.messages`); what
libraries print goes to standard error. It ends when its standard input does, which whoever started it holds open.
"""

import os
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import msgspec

from agents.inference.finetuning.messages import TrainingJob, TrainingMessage, TrainingRefused

REFUSED_EXIT = 3
"""Exit code after a :class:`TrainingRefused`."""


def main(arguments: Sequence[str]) -> None:
    """Do the job of the file."""
    messages = _claim_output()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    os.environ.setdefault("MKL_NUM_THREADS", str(os.cpu_count() or 1))  # nothing else decodes here
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    from agents.inference.mlx import cpu

    cpu.preload()  # before mlx is imported
    from agents.inference.finetuning.trainer import Refusal, run_job

    def notify(message: TrainingMessage) -> None:
        messages.write(msgspec.json.encode(message).decode() + "\n")
        messages.flush()

    job = msgspec.json.decode(Path(arguments[0]).read_bytes(), type=TrainingJob)
    try:
        run_job(job, notify)
    except Refusal as refusal:
        notify(refusal.message)
        sys.exit(REFUSED_EXIT)
    except MemoryError as error:
        notify(TrainingRefused(text=f"the machine has too little memory: {error}", param="memory", resumable=True))
        sys.exit(REFUSED_EXIT)


def _claim_output() -> TextIO:
    """Standard output as it was; file descriptor 1 is standard error from now on."""
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return output


def _end_with_parent() -> None:
    while os.read(0, 1024):  # not sys.stdin, whose lock would abort the interpreter's end
        pass
    os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
