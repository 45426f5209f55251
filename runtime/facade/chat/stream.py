"""A streamed answer: server-sent events as OpenAI's clients read them.

``raw`` and ``fast`` show the text while it is decoded. ``full`` tells each stage in a comment, which clients skip,
and then the judged answer. A failure in the middle is a ``data: {"error": ...}`` event, and nothing follows it.
"""

import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any

import anyio
import msgspec
import structlog
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from bus.turn import Diverged, LiveText
from runtime.facade.chat import response, tools
from runtime.facade.chat.request import Asked
from runtime.facade.chat.turns import Turn
from runtime.facade.disconnect import while_connected
from runtime.facade.errors import ClientGone, error_object, told
from runtime.facade.settings import FacadeSettings
from schemas.errors import KikiError
from schemas.events import AnswerReady, Event, InferToken, QueryRouted
from schemas.findings import FinishReason, StageTiming

Following = AbstractAsyncContextManager[Turn]

WRITE_SECONDS = 5.0
"""How long past the deadline a client may take to read what it was sent."""

_log = structlog.get_logger("facade")


class ChatStream(Response):
    """The response to a streamed request. What :meth:`Turns.follow` refuses is still a plain HTTP refusal."""

    media_type = "text/event-stream"

    def __init__(self, follow: Callable[[], Following], asked: Asked, settings: FacadeSettings) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._follow = follow
        self._asked = asked
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Follow the turn and tell it."""
        async with self._follow() as turn:
            scope["state"]["turn_id"] = turn.id
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            teller = _Teller(turn, self._asked, self._settings, send)
            try:
                with anyio.fail_after(max(0.0, turn.envelope.remaining) + WRITE_SECONDS):
                    await while_connected(receive, partial(_told_or_failed, teller))
            except (ClientGone, TimeoutError):
                scope["state"]["client_gone"] = True


async def _told_or_failed(teller: "_Teller") -> None:
    try:
        await teller.tell()
    except KikiError as error:
        await teller.event(told(error))
    except Exception:  # noqa: BLE001 - the status is sent already; logged with its traceback
        _log.exception("stream failed")
        await teller.event(
            error_object(message="the facade failed; its log says why.", status=500, code="internal_error")
        )
    await teller.end()


class _Teller:
    """Writes one turn to one client."""

    def __init__(self, turn: Turn, asked: Asked, settings: FacadeSettings, send: Send) -> None:
        self._turn = turn
        self._asked = asked
        self._settings = settings
        self._send = send
        self._live = LiveText()
        self._shows_tokens = asked.level != "full"
        self._stages: set[str] = set()
        self._wrote_at = time.monotonic()

    async def tell(self) -> None:
        """The whole turn, to its last chunk."""
        await self._delta({"role": "assistant", "content": ""})
        while True:
            event = await self._turn.next()
            if isinstance(event, AnswerReady):
                break
            if isinstance(event, InferToken):
                await self._token(event)
            elif event is not None:
                await self._stage(event)
            await self._keep_alive()
        await self._answer(event)

    async def event(self, body: dict[str, Any]) -> None:
        """One server-sent event."""
        await self._write(b"data: " + msgspec.json.encode(body) + b"\n\n")

    async def end(self) -> None:
        """Close the response."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _token(self, token: InferToken) -> None:
        text = self._live.hear(token) if self._shows_tokens else ""
        if text and (self._asked.thinking or token.kind == "content"):
            self._turn.spoke(self._asked.level)
            await self._delta({token.kind: text})

    async def _stage(self, event: Event) -> None:
        if isinstance(event, QueryRouted):
            self._shows_tokens = event.route.plan.live_tokens
        timings: tuple[StageTiming, ...] = getattr(event, "timings", ())
        for timing in timings:
            if timing.stage not in self._stages:
                self._stages.add(timing.stage)
                if not self._shows_tokens:
                    await self._comment(f"stage {timing.stage} {timing.duration * 1000:.0f} ms")

    async def _answer(self, answer: AnswerReady) -> None:
        await self._stage(answer)
        self._turn.spoke(answer.route.plan.level)
        for index, (text, reasoning, finish) in enumerate(response.choices(answer, self._asked)):
            if index == 0:
                text, reasoning = self._live.finish(text), self._rest_of_reasoning(reasoning)
            for kind, rest in (("reasoning", reasoning), ("content", text)):
                for piece in response.pieces(rest):
                    await self._delta({kind: piece}, index=index)
            if called := response.calls(answer, self._asked, index):
                await self._delta({"tool_calls": tools.told(called, streamed=True)}, index=index)
            await self._finish(answer, index, finish)
        if self._asked.include_usage:
            last = response.chunk(self._turn.envelope, self._asked, delta=None)
            await self.event(last | {"usage": response.usage(answer.usage)})
        await self._write(b"data: [DONE]\n\n")

    def _rest_of_reasoning(self, reasoning: str) -> str:
        try:
            return self._live.finish(reasoning, kind="reasoning")
        except Diverged:
            return ""  # thinking aloud is not the answer: what was shown may stand

    async def _finish(self, answer: AnswerReady, index: int, reason: FinishReason) -> None:
        last = response.chunk(self._turn.envelope, self._asked, delta={}, index=index, finish_reason=reason)
        traced = self._asked.trace and index == 0
        await self.event(last | ({"kiki": response.account(answer)} if traced else {}))

    async def _delta(self, delta: dict[str, Any], *, index: int = 0) -> None:
        await self.event(response.chunk(self._turn.envelope, self._asked, delta=delta, index=index))

    async def _comment(self, text: str) -> None:
        await self._write(f": {text}\n\n".encode())

    async def _keep_alive(self) -> None:
        if time.monotonic() - self._wrote_at >= self._settings.keepalive_seconds:
            await self._comment("working")

    async def _write(self, data: bytes) -> None:
        self._wrote_at = time.monotonic()
        await self._send({"type": "http.response.body", "body": data, "more_body": True})
