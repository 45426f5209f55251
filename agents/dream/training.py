"""Trains at the worker and watches its beats: a worker that dies is noticed long before the budget runs out."""

import anyio

from bus.connection import Bus, LiveMessage
from schemas.calls import ADAPTERS_TRAIN
from schemas.consolidation import TrainReply, TrainRequest
from schemas.errors import Unavailable


async def train_with_watchdog(bus: Bus, request: TrainRequest, *, timeout: float, silence: float) -> TrainReply:
    """Request a training and return its reply, as long as a beat comes at least every ``silence`` seconds.

    Raises:
        Unavailable: no beat came for so long, or there is no worker.
        KikiError: the worker's refusal.
    """
    with anyio.CancelScope(deadline=anyio.current_time() + silence) as scope:

        async def extend_deadline(_: LiveMessage) -> None:
            scope.deadline = anyio.current_time() + silence

        stop_listening = await bus.listen(request.beat, extend_deadline)
        try:
            return await bus.request(ADAPTERS_TRAIN, request, timeout=timeout)
        finally:
            await stop_listening()
    raise Unavailable(f"nothing was heard of the training for {silence:.0f} s: the worker has died or hangs.")
