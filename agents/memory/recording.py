"""Writes answers into the record, and holds them for as long as the record takes nothing."""

import structlog
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from bus import metrics
from bus.connection import Bus
from bus.errors import BrokerUnavailable
from schemas.events import EpisodeRecorded

PAUSE_SECONDS = 5.0
"""Longest pause, in seconds, between two tries."""

_log = structlog.get_logger("memory")


class RecordWriter:
    """Publishes episodes. ``problem`` says why the record takes none now; empty while it does."""

    def __init__(self) -> None:
        self.problem = ""

    async def write(self, bus: Bus, event: EpisodeRecorded) -> None:
        """Return when the record has the episode. One that it does not take is no poison, so it is never given up.

        Its answer stays unacknowledged meanwhile, so that it is delivered again should this process end.
        """
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(BrokerUnavailable),
            wait=wait_random_exponential(multiplier=0.2, max=PAUSE_SECONDS),
            before_sleep=self._note,
            reraise=True,
        ):
            with attempt:
                await bus.publish(event)
        if self.problem:
            _log.info("record returned")
            self.problem = ""

    def _note(self, state: RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        self.problem = f"answers wait for the record: {error}"
        metrics.count_degraded("record.away", str(error))
