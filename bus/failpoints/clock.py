"""A clock that a test moves: ``time.time`` of one process, never the machine's clock."""

import time

import structlog

from bus.failpoints.windows import CONTROL

LOOK_SECONDS = 0.2
"""Seconds between two looks at the file that says how far the clock is ahead."""

_log = structlog.get_logger("bus")


def install_clock(process: str) -> None:
    """Name this process for its failpoints, and let a test move its clock. Does nothing while failpoints are off.

    The monotonic clock of timers, ``time.time_ns`` and ``datetime.now`` stay as they are.
    """
    if CONTROL.folder is None:
        return
    CONTROL.process = process
    _log.warning("failpoints armed", folder=str(CONTROL.folder), process=process)
    read_time, shift, looked_at = time.time, 0.0, float("-inf")

    def read_shifted_time() -> float:
        nonlocal shift, looked_at
        if (now := time.monotonic()) - looked_at >= LOOK_SECONDS:
            looked_at = now
            ahead = CONTROL.read("clock")
            shift = float(ahead[1] or 0.0) if ahead is not None else 0.0
        return read_time() + shift

    time.time = read_shifted_time
