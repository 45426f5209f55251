"""Replays that publish a part of the record on a subject: a few at a time, each until it ends or is stopped."""

import uuid
from contextlib import aclosing
from dataclasses import dataclass, field

import anyio
import anyio.abc
import structlog

from agents.services.replay import pace, read_selection, replay_headers
from bus import metrics
from bus.connection import Bus
from schemas.errors import InvalidInput, KikiError, Refused
from schemas.services import REPLAY_END, REPLAY_ERROR, REPLAY_ID, ReplayRequest

MAX_RUNNING = 4
"""Replays that may run at the same time."""

_FLUSH_EVERY = 128
"""Messages between two waits for the broker to take what was sent."""

_log = structlog.get_logger("services")


@dataclass
class _RunningReplay:
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    sent: int = 0


class Replays:
    """Starts and stops replays; they run in the agent's task group."""

    def __init__(self, bus: Bus, tasks: anyio.abc.TaskGroup) -> None:
        self._bus = bus
        self._tasks = tasks
        self._running: dict[str, _RunningReplay] = {}

    def start(self, request: ReplayRequest) -> str:
        """Start a replay; returns its id.

        Raises:
            InvalidInput: the subject is one of the runtime's own.
            Refused: too many are running.
        """
        prefix = self._bus.subjects.prefix
        if self._bus.subjects.owns(request.to):
            raise InvalidInput(f"'{request.to}' is the runtime's own: give a subject outside '{prefix}'.", param="to")
        if len(self._running) >= MAX_RUNNING:
            raise Refused(f"{MAX_RUNNING} replays are running: stop one, or wait for its end.")
        replay_id = uuid.uuid4().hex
        self._running[replay_id] = _RunningReplay()
        self._tasks.start_soon(self._run, replay_id, request)
        return replay_id

    def stop(self, replay_id: str) -> int:
        """Stop a replay; returns how many messages it had sent.

        Raises:
            InvalidInput: no such replay is running.
        """
        running = self._running.get(replay_id)
        if running is None:
            raise InvalidInput(f"no replay '{replay_id}' is running; it may have ended.", param="replay_id")
        running.scope.cancel()
        return running.sent

    async def _run(self, replay_id: str, request: ReplayRequest) -> None:
        running, code = self._running[replay_id], ""
        try:
            with running.scope:
                code = "cancelled"  # stays when the scope is cancelled, because the next line but one is skipped then
                await self._send(replay_id, request, running)
                code = ""
        except KikiError as error:
            code = error.code
            _log.warning("replay broke off", replay=replay_id, error=error.message)
        except Exception as error:  # noqa: BLE001 - it ends this replay, and neither the others nor the agent
            code = KikiError.code
            metrics.count_degraded("services.replay", str(error) or type(error).__name__)
            _log.exception("replay failed", replay=replay_id)
        finally:
            del self._running[replay_id]
        await self._send_end(replay_id, request.to, running.sent, code)

    async def _send(self, replay_id: str, request: ReplayRequest, running: _RunningReplay) -> None:
        async with aclosing(pace(read_selection(self._bus, request.selection), request.speed)) as messages:
            async for stored in messages:
                message_headers = replay_headers(stored) | {REPLAY_ID: replay_id}
                await self._bus.send(request.to, stored.data, headers=message_headers)
                if running.sent % _FLUSH_EVERY == 0:
                    await self._bus.flush()
                running.sent += 1

    async def _send_end(self, replay_id: str, subject: str, sent: int, code: str) -> None:
        end_headers = {REPLAY_ID: replay_id, REPLAY_END: str(sent)} | ({REPLAY_ERROR: code} if code else {})
        try:
            await self._bus.send(subject, headers=end_headers)
        except KikiError as error:
            _log.warning("replay end not sent", replay=replay_id, error=error.message)
