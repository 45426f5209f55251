"""A streamed answer: server-sent events as OpenAI's clients read them.

``raw`` and ``fast`` show the text while it is decoded. ``full`` writes a comment for each stage that ended, which
clients skip, and then the judged answer. A failure in the middle is a ``data: {"error": ...}`` event, and nothing
follows it.
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
from runtime.facade.chat.request import CheckedRequest
from runtime.facade.chat.turns import FollowedTurn
from runtime.facade.disconnect import run_while_connected
from runtime.facade.errors import ClientGone, describe_error, describe_internal_error
from runtime.facade.settings import FacadeSettings
from schemas.errors import KikiError
from schemas.events import AnswerReady, Event, InferToken, QueryRouted
from schemas.findings import FinishReason, StageTiming

Following = AbstractAsyncContextManager[FollowedTurn]
"""What :meth:`runtime.facade.chat.turns.Turns.follow` returns."""

WRITE_SECONDS = 5.0
"""How long past the deadline a client may take to read what it was sent."""

_log = structlog.get_logger("facade")


class ChatStream(Response):
    """The response to a streamed request. A refusal by ``follow`` is still a plain HTTP reply."""

    media_type = "text/event-stream"

    def __init__(self, follow: Callable[[], Following], request: CheckedRequest, settings: FacadeSettings) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._follow = follow
        self._request = request
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Follow the turn and write it to the client."""
        async with self._follow() as turn:
            scope["state"]["turn_id"] = turn.id
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            writer = _TurnWriter(turn, self._request, self._settings, send)
            try:
                with anyio.fail_after(max(0.0, turn.envelope.remaining) + WRITE_SECONDS):
                    await run_while_connected(receive, partial(_write_or_report_failure, writer))
            except (ClientGone, TimeoutError):
                scope["state"]["client_gone"] = True


async def _write_or_report_failure(writer: "_TurnWriter") -> None:
    try:
        await writer.write_turn()
    except KikiError as error:
        await writer.write_event(describe_error(error))
    except Exception:  # noqa: BLE001 - the status is sent already; logged with its traceback
        _log.exception("stream failed")
        await writer.write_event(describe_internal_error())
    await writer.end()


class _TurnWriter:
    """Writes one turn to one client."""

    def __init__(self, turn: FollowedTurn, request: CheckedRequest, settings: FacadeSettings, send: Send) -> None:
        self._turn = turn
        self._request = request
        self._settings = settings
        self._send = send
        self._live = LiveText()
        self._shows_tokens = request.level != "full"
        self._stages: set[str] = set()
        self._wrote_at = time.monotonic()

    async def write_turn(self) -> None:
        """Write the whole turn, to its last chunk."""
        await self._write_delta({"role": "assistant", "content": ""})
        while True:
            event = await self._turn.next()
            if isinstance(event, AnswerReady):
                break
            if isinstance(event, InferToken):
                await self._write_token(event)
            elif isinstance(event, Event):
                await self._write_stages(event)
            await self._keep_alive()
        await self._write_answer(event)

    async def write_event(self, body: dict[str, Any]) -> None:
        """Write one server-sent event."""
        await self._write(b"data: " + msgspec.json.encode(body) + b"\n\n")

    async def end(self) -> None:
        """Close the response."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _write_token(self, token: InferToken) -> None:
        text = self._live.add(token) if self._shows_tokens else ""
        if text and (self._request.thinking or token.kind == "content"):
            self._turn.count_first_text(self._request.level)
            await self._write_delta({token.kind: text})

    async def _write_stages(self, event: Event) -> None:
        if isinstance(event, QueryRouted):
            self._shows_tokens = event.route.plan.live_tokens
        timings: tuple[StageTiming, ...] = getattr(event, "timings", ())
        for timing in timings:
            if timing.stage not in self._stages:
                self._stages.add(timing.stage)
                if not self._shows_tokens:
                    await self._write_comment(f"stage {timing.stage} {timing.duration * 1000:.0f} ms")

    async def _write_answer(self, answer: AnswerReady) -> None:
        await self._write_stages(answer)
        self._turn.count_first_text(answer.route.plan.level)
        for index, (text, reasoning, finish) in enumerate(response.choices(answer, self._request)):
            if index == 0:
                text, reasoning = self._live.finish(text), self._rest_of_reasoning(reasoning)
            for kind, rest in (("reasoning", reasoning), ("content", text)):
                for piece in response.pieces(rest):
                    await self._write_delta({kind: piece}, index=index)
            if tool_calls := response.calls(answer, self._request, index):
                await self._write_delta({"tool_calls": tools.wire_calls(tool_calls, streamed=True)}, index=index)
            await self._write_finish(answer, index, finish)
        if self._request.include_usage:
            last = response.chunk(self._turn.envelope, self._request, delta=None)
            await self.write_event(last | {"usage": response.usage(answer.usage)})
        await self._write(b"data: [DONE]\n\n")

    def _rest_of_reasoning(self, reasoning: str) -> str:
        try:
            return self._live.finish(reasoning, kind="reasoning")
        except Diverged:
            return ""  # the reasoning is not the answer: the part that was sent may differ from the final one

    async def _write_finish(self, answer: AnswerReady, index: int, reason: FinishReason) -> None:
        last = response.chunk(self._turn.envelope, self._request, delta={}, index=index, finish_reason=reason)
        with_account = self._request.trace and index == 0
        await self.write_event(last | ({"kiki": response.account(answer)} if with_account else {}))

    async def _write_delta(self, delta: dict[str, Any], *, index: int = 0) -> None:
        await self.write_event(response.chunk(self._turn.envelope, self._request, delta=delta, index=index))

    async def _write_comment(self, text: str) -> None:
        await self._write(f": {text}\n\n".encode())

    async def _keep_alive(self) -> None:
        if time.monotonic() - self._wrote_at >= self._settings.keepalive_seconds:
            await self._write_comment("working")

    async def _write(self, data: bytes) -> None:
        self._wrote_at = time.monotonic()
        await self._send({"type": "http.response.body", "body": data, "more_body": True})
