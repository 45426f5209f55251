"""The windows, and what happens to a process that passes an armed one."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import anyio

FAILPOINTS = "KIKI_FAILPOINTS"
"""The environment variable that names the folder; without it all failpoints are off."""

WINDOWS = (
    "delivery.taken",  # a consumer has a message, and nothing is done about it
    "delivery.published",  # what came of a message is published, and the message is not acknowledged
    "letter.written",  # a dead letter is stored, and the message that it is about is not ended
    "answer.seen",  # the facade has read the turn's answer, and has not said that the client gets it
    "answer.taken",  # that the client gets the answer is stored, and no byte of a reply is sent
    "memory.recorded",  # the record has the episode, and the answer that it was made of is not acknowledged
    "projection.begun",  # episodes of the record are in hand, and in neither store
    "projection.traced",  # Trace has them, Atlas not
    "projection.placed",  # both have them; parts of summaries are not marked, nor older facts as replaced
    "projection.done",  # both have all of it, and the record's messages are not acknowledged
    "memory.disk",  # before each write of an embedded store, on its thread
    "forget.removed",  # Atlas has dropped the episodes; the record and Trace hold them, and no tombstone is written
    "forget.published",  # the tombstone is in the record, and the episode's messages are, too
    "forget.erased",  # the streams hold no text of the episodes any more, and Trace still knows them
    "sleep.recorded",  # a summary is recorded; its parts are not marked, the next summary is not begun
    "rebuild.emptied",  # the stores are empty (of one tenant), and nothing is projected yet
    "rebuild.projected",  # a batch of a rebuild is projected, the next one is not
    "shard.named",  # a shard of Atlas is whole on disk, and the file that names the one in force is not replaced
    "mark.logged",  # a service's mark is in the log, and the service has no reply
)
"""Names of all windows, each with the state that a crash there leaves behind."""


@dataclass
class Control:
    """The folder in which a test writes what is to happen, and this process's name in it."""

    folder: Path | None
    process: str = ""

    def read(self, name: str) -> tuple[Path, str] | None:
        """The file of this name, the process's own one first, with its text; None when there is none."""
        if self.folder is None:
            return None
        for path in (self.folder / f"{name}.{self.process}", self.folder / name):
            try:
                return path, path.read_text().strip()
            except FileNotFoundError:
                continue
        return None


CONTROL = Control(Path(os.environ[FAILPOINTS]) if os.environ.get(FAILPOINTS) else None)
"""This process's."""


async def pass_window(window: str) -> None:
    """Pass a window of :data:`WINDOWS` in the event loop, which goes on while this caller sleeps."""
    if CONTROL.folder is not None:
        await anyio.sleep(_apply(window))


def pass_window_in_thread(window: str) -> None:
    """Pass a window of :data:`WINDOWS` in a thread, which a sleep holds up."""
    if CONTROL.folder is not None:
        time.sleep(_apply(window))


def _apply(window: str) -> float:
    """Die if a test says so; otherwise return the seconds to sleep.

    Raises:
        ValueError: the window's file holds something else.
    """
    armed = CONTROL.read(window)
    if armed is None:
        return 0.0
    path, text = armed
    if text == "kill":
        try:
            path.unlink()
        except FileNotFoundError:
            return 0.0  # another process was first, and died
        os.kill(os.getpid(), signal.SIGKILL)
    action, _, seconds = text.partition(" ")
    if action != "sleep":
        raise ValueError(f"the failpoint {path} holds {text!r}: write 'kill' or 'sleep SECONDS'.")
    return float(seconds)
