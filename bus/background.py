"""Work that runs beside an agent for as long as it lives: its fault ends neither the agent nor the work."""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import structlog

from bus import metrics
from schemas.errors import KikiError

PAUSE_SECONDS = 5.0
"""Seconds between a fault and the next try."""

_log = structlog.get_logger("bus")


async def keep_running(name: str, work: Callable[..., Awaitable[None]], *arguments: Any) -> None:
    """Run ``work`` until it returns; what it raises is counted under ``name``, and it begins again after a pause."""
    while True:
        try:
            await work(*arguments)
        except KikiError as error:
            metrics.count_degraded(name, error.message)
        except Exception as error:  # noqa: BLE001 - a fault of the background work; its traceback is logged
            _log.exception("background work failed", work=name)
            metrics.count_degraded(name, repr(error))
        else:
            return
        await anyio.sleep(PAUSE_SECONDS)
