"""Signs of life of a supervised process, over a pipe of its own: one byte a second from its event loop.

Bytes come once the process takes work. Before that it imports and loads models, which may hold its loop up for as
long as they like. A second counts as silent only while the supervisor itself looks: a machine that slept, or on which
the supervisor got no time, adds one second at most.
"""

import contextlib
import os

import anyio

HEARTBEAT = "KIKI_HEARTBEAT"
"""Names, in the environment of a supervised process, the file descriptor that its signs of life go to."""

BEAT_SECONDS = 1.0


class Heartbeat:
    """The supervisor's end. ``writer`` is the end that the process gets, and :meth:`give` is called once it has it."""

    def __init__(self) -> None:
        self._reader, self.writer = os.pipe()
        for file in (self._reader, self.writer):
            os.set_blocking(file, False)

    def give(self) -> None:
        """Close the supervisor's copy of ``writer``."""
        os.close(self.writer)

    def close(self) -> None:
        """Listen no more."""
        os.close(self._reader)

    async def wait_for_silence(self, seconds: float) -> None:
        """Wait until the process has given signs of life, and then none for so many seconds of this process's time."""
        silent: float | None = None
        while silent is None or silent < seconds:
            await anyio.sleep(BEAT_SECONDS)
            if self._hear():
                silent = 0.0
            elif silent is not None:
                silent += BEAT_SECONDS

    def _hear(self) -> bool:
        try:
            return bool(os.read(self._reader, 65536))
        except BlockingIOError:
            return False


async def beat() -> None:
    """Give signs of life for ever, if a supervisor listens to this process."""
    if (number := os.environ.get(HEARTBEAT)) is None:
        return
    file = int(number)
    os.set_inheritable(file, False)  # children of this process could go on in its name
    while True:
        with contextlib.suppress(BlockingIOError, BrokenPipeError):  # the supervisor is stopped, or gone
            os.write(file, b".")
        await anyio.sleep(BEAT_SECONDS)
