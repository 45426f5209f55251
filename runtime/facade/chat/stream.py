"""A streamed answer: server-sent events in the shape of a dialect.

The response begins when the worker has accepted the turn, so that a request which cannot be served is refused with an
HTTP status; in a long silence it begins without. ``raw`` and ``fast`` show the text while it is decoded, ``full`` shows
the judged answer. A comment is written in silence, so that proxies keep the connection; with ``kiki.progress`` comments
say what is being done. A failure after the beginning is an event, and nothing follows it.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass

import anyio
import structlog
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from bus.turn import Diverged, Happening, LiveText
from runtime.facade.chat import response
from runtime.facade.chat.dialect import Beginning, StreamDialect, TextKind
from runtime.facade.chat.headers import describe_turn
from runtime.facade.chat.request import CheckedRequest
from runtime.facade.chat.turns import FollowedTurn
from runtime.facade.disconnect import run_while_connected
from runtime.facade.errors import ClientGone, InternalError
from runtime.facade.settings import FacadeSettings
from schemas.errors import KikiError
from schemas.events import AnswerReady, Event, InferBegun, InferToken, QueryRouted
from schemas.findings import StageTiming, TokenLogprob

Following = AbstractAsyncContextManager[FollowedTurn]
"""What :meth:`runtime.facade.chat.turns.Turns.follow` returns."""

Follow = Callable[[], Following]
"""Begins a turn and follows it."""

WRITE_SECONDS = 5.0
"""How long past the deadline a client may take to read what it was sent."""

_log = structlog.get_logger("facade")


@dataclass(frozen=True, kw_only=True)
class StreamPart:
    """One of the turns of which a stream shows the answers."""

    follow: Follow
    request: CheckedRequest
    dialect: StreamDialect


class TurnStream(Response):
    """The response to a streamed request. A refusal before the stream begins is a plain HTTP reply.

    Several turns run at once, and their answers are written one after the other.
    """

    media_type = "text/event-stream"

    def __init__(self, parts: Sequence[StreamPart], settings: FacadeSettings) -> None:
        super().__init__(headers={"cache-control": "no-cache", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._parts = parts
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Follow the turns and write them to the client."""
        async with AsyncExitStack() as stack:
            turns = [await stack.enter_async_context(part.follow()) for part in self._parts]
            scope["state"]["turn_id"] = turns[0].id
            writers = [
                _TurnWriter(turn, part, self._settings, send) for turn, part in zip(turns, self._parts, strict=True)
            ]
            try:
                with anyio.fail_after(max(0.0, turns[-1].envelope.remaining) + WRITE_SECONDS):
                    await run_while_connected(receive, lambda: self._write(writers, send))
            except (ClientGone, TimeoutError):
                scope["state"]["client_gone"] = True

    async def _write(self, writers: "Sequence[_TurnWriter]", send: Send) -> None:
        """Write the whole stream.

        Raises:
            KikiError: a turn failed before the stream began.
        """
        until = time.monotonic() + self._settings.accept_seconds
        for writer in writers:
            await writer.wait_for_beginning(until)
        self.headers.update(writers[0].headers)
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        for writer in writers:
            if not await writer.write():
                break
        await send({"type": "http.response.body", "body": b"", "more_body": False})


class _TurnWriter:
    """Writes one turn to one client."""

    def __init__(self, turn: FollowedTurn, part: StreamPart, settings: FacadeSettings, send: Send) -> None:
        self._turn = turn
        self._request = part.request
        self._dialect = part.dialect
        self._settings = settings
        self._send = send
        self._live = LiveText()
        self._tokens = _LiveTokens()
        self._begun: InferBegun | None = None
        self._early_events: list[Happening] = []
        self._prompt_tokens = 0
        self._shows_tokens = part.request.level != "full"
        self._stages: set[str] = set()
        self._wrote_at = time.monotonic()

    @property
    def headers(self) -> dict[str, str]:
        """The headers that say how the turn is served, as far as that is known."""
        return describe_turn(self._request, None if self._begun is None else self._begun.adapters)

    async def wait_for_beginning(self, until: float) -> None:
        """Wait until the worker has accepted the turn, or shows that it has, or until a moment of the monotonic clock.

        Raises:
            KikiError: the turn failed.
        """
        while True:
            event = await self._turn.next()
            if isinstance(event, InferBegun):
                self._begun = event
                return
            if event is not None:
                self._early_events.append(event)
            if isinstance(event, InferToken | AnswerReady) or time.monotonic() >= until:
                return

    async def write(self) -> bool:
        """Write the turn; returns whether it was answered."""
        try:
            await self._write_beginning()
            await self._write_turn()
        except KikiError as error:
            await self._write(self._dialect.fail(error))
            return False
        except Exception:  # noqa: BLE001 - the status is sent already; logged with its traceback
            _log.exception("stream failed")
            await self._write(self._dialect.fail(InternalError()))
            return False
        return True

    async def _write_beginning(self) -> None:
        begun = self._begun
        beginning = Beginning(envelope=self._turn.envelope)
        if begun is not None:
            self._prompt_tokens = begun.prompt_tokens
            beginning = Beginning(
                envelope=self._turn.envelope, prompt_tokens=begun.prompt_tokens, model_digest=begun.model_digest
            )
        await self._write(self._dialect.begin(beginning))

    async def _next_event(self) -> Happening | None:
        return self._early_events.pop(0) if self._early_events else await self._turn.next()

    async def _write_turn(self) -> None:
        while not isinstance(event := await self._next_event(), AnswerReady):
            if isinstance(event, InferToken):
                await self._write_token(event)
            elif isinstance(event, InferBegun):
                self._prompt_tokens = event.prompt_tokens
            elif event is not None:
                await self._write_stages(event)
            await self._keep_alive()
        await self._write_answer(event)

    async def _write_token(self, token: InferToken) -> None:
        if not self._shows_tokens:
            return
        text, tokens = self._live.add(token), self._tokens.add(token)
        if text and (self._request.thinking or token.kind == "content"):
            self._turn.count_first_text(self._request.level)
            await self._write(self._dialect.text(token.kind, text, tokens, 0))
        else:
            self._tokens.put_back(tokens)

    async def _write_stages(self, event: Event) -> None:
        if isinstance(event, QueryRouted):
            self._shows_tokens = event.route.plan.live_tokens
        timings: tuple[StageTiming, ...] = getattr(event, "timings", ())
        for timing in timings:
            if timing.stage not in self._stages:
                self._stages.add(timing.stage)
                if self._request.progress:
                    await self._write_comment(f" stage {timing.stage} {timing.duration * 1000:.0f} ms")

    async def _write_answer(self, answer: AnswerReady) -> None:
        await self._write_stages(answer)
        self._turn.count_first_text(answer.route.plan.level)
        for choice in response.choices(answer, self._request):
            text, reasoning, tokens = choice.text, choice.reasoning, choice.tokens
            if choice.index == 0:
                text, reasoning = self._live.finish(text), self._rest_of_reasoning(reasoning)
                tokens = self._tokens.finish(tokens)
            rest: list[tuple[TextKind, str]] = [("reasoning", piece) for piece in response.pieces(reasoning)]
            rest += [("content", piece) for piece in response.pieces(text)]
            if tokens and not rest:
                rest = [("content", "")]
            for kind, piece in rest:
                await self._write(self._dialect.text(kind, piece, tokens, choice.index))
                tokens = ()
            await self._write(self._dialect.finish(choice, answer))
        await self._write(self._dialect.end(answer))

    def _rest_of_reasoning(self, reasoning: str) -> str:
        try:
            return self._live.finish(reasoning, kind="reasoning")
        except Diverged:
            return ""  # the reasoning is not the answer: the part that was sent may differ from the final one

    async def _keep_alive(self) -> None:
        if time.monotonic() - self._wrote_at < self._settings.keepalive_seconds:
            return
        if not self._request.progress:
            await self._write_comment("")
        elif self._prompt_tokens and "inference" not in self._stages:
            await self._write_comment(f" reading the prompt of {self._prompt_tokens} tokens")
        else:
            await self._write_comment(" working")

    async def _write_comment(self, text: str) -> None:
        await self._write(f":{text}\n\n".encode())

    async def _write(self, data: bytes) -> None:
        if data:
            self._wrote_at = time.monotonic()
            await self._send({"type": "http.response.body", "body": data, "more_body": True})


class _LiveTokens:
    """The log-probabilities that a stream has shown. A turn that is decoded again repeats those first."""

    def __init__(self) -> None:
        self._attempt = 0
        self._seen = 0
        self._shown = 0
        self._held: tuple[TokenLogprob, ...] = ()

    def add(self, token: InferToken) -> tuple[TokenLogprob, ...]:
        """Take a token; returns those entries that are to be shown now, with those that were put back."""
        if token.attempt > self._attempt:
            self._attempt, self._seen = token.attempt, 0
        if token.attempt < self._attempt:
            return self._take_held()
        start = max(0, self._shown - self._seen)
        self._seen += len(token.tokens)
        entries = token.tokens[start:]
        self._shown = max(self._shown, self._seen)
        return self._take_held() + entries

    def put_back(self, entries: tuple[TokenLogprob, ...]) -> None:
        """Keep entries for the next piece."""
        self._held = entries

    def finish(self, entries: tuple[TokenLogprob, ...]) -> tuple[TokenLogprob, ...]:
        """Those of all the answer's entries that were not shown."""
        return self._take_held() + entries[self._shown :]

    def _take_held(self) -> tuple[TokenLogprob, ...]:
        held, self._held = self._held, ()
        return held
