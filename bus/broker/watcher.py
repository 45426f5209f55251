"""Runs a server for as long as its supervisor lives: ``python -I -S watcher.py COMMAND...``.

Standard input is a pipe whose other end only the supervisor holds. Its end means that the supervisor is gone, however
it ended, and then the server ends, too; so does SIGTERM. Linux alone could bind a child's life to its parent's.
The server's exit code is passed on. The script imports nothing but the standard library, to stay small.
"""

import os
import select
import signal
import sys
import time

GRACE_SECONDS = 3.0
"""Seconds that the server has to end by itself."""

STANDARD_INPUT = 0


def watch(command: list[str]) -> int:
    """Run the command until it ends, or until the supervisor does; its exit code, 128 and more for a signal."""
    signals = _listen_to_signals(signal.SIGCHLD, signal.SIGTERM)
    server = os.posix_spawn(
        command[0],
        command,
        os.environ,
        file_actions=[(os.POSIX_SPAWN_OPEN, STANDARD_INPUT, os.devnull, os.O_RDONLY, 0)],
        setsigdef=[signal.SIGPIPE],  # Python ignores it, and what is ignored stays so in the server
    )
    watched = [STANDARD_INPUT, signals]
    deadline: float | None = None
    while True:
        ended, status = os.waitpid(server, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code
        readable, _, _ = select.select(watched, [], [], None if deadline is None else GRACE_SECONDS)
        is_over = signals in readable and signal.SIGTERM in os.read(signals, 512)
        if STANDARD_INPUT in readable and not os.read(STANDARD_INPUT, 512):
            watched.remove(STANDARD_INPUT)
            is_over = True
        if is_over and deadline is None:
            os.kill(server, signal.SIGTERM)
            deadline = time.monotonic() + GRACE_SECONDS
        elif deadline is not None and time.monotonic() >= deadline:
            os.kill(server, signal.SIGKILL)


def _listen_to_signals(*numbers: int) -> int:
    """A file that becomes readable with each of these signals, and gives their numbers; none comes too early for it."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number in numbers:
        signal.signal(number, lambda *_: None)
    return reader


if __name__ == "__main__":
    sys.exit(watch(sys.argv[1:]))
