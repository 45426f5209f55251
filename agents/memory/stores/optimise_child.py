"""``python -m agents.memory.stores.optimise_child COPY``: optimise a shard that nobody has open.

While qdrant-edge works, no Python of its process runs. So one process works, and this one watches over it: the agent
holds its standard input, and the end of that is the end of both.
"""

import os
import select
import subprocess
import sys

WATCH = 0.2
"""Seconds between two looks."""

_WORK = "import pathlib, sys; from agents.memory.stores.points import optimise; optimise(pathlib.Path(sys.argv[1]))"


def main(copy: str) -> int:
    """Run the worker, kill it when standard input ends, and return its exit code."""
    os.nice(19)
    with subprocess.Popen([sys.executable, "-c", _WORK, copy], stdin=subprocess.DEVNULL) as worker:
        while worker.poll() is None:
            readable, _, _ = select.select([sys.stdin], [], [], WATCH)
            if readable:
                worker.kill()
                break
        return worker.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
