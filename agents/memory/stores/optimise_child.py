"""``python -m agents.memory.stores.optimise_child COPY NICENESS``: optimise a shard that no process has open.

While qdrant-edge works, no Python code runs in its process. So a worker process optimises, and this one watches its
own standard input, which the agent holds open: when it closes, the agent has died, and both processes end.
"""

import os
import select
import subprocess
import sys

WATCH = 0.2
"""Seconds between two checks whether the worker has ended."""

_WORK = "import pathlib, sys; from agents.memory.stores.points import optimise; optimise(pathlib.Path(sys.argv[1]))"


def main(copy: str, niceness: int) -> int:
    """Run the worker, kill it when standard input ends, and return its exit code. Others go before it by so much."""
    os.nice(niceness)
    with subprocess.Popen([sys.executable, "-c", _WORK, copy], stdin=subprocess.DEVNULL) as worker:
        while worker.poll() is None:
            readable, _, _ = select.select([sys.stdin], [], [], WATCH)
            if readable:
                worker.kill()
                break
        return worker.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2])))
