"""The line to the upstream: who may call, as which model, what an error means, and whether anybody is there.

The client retries nothing: the broker delivers again, and knows how often.
"""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from typing import Any

import anyio
import openai
import structlog
from openai import AsyncOpenAI

from agents.inference.requests import Request
from agents.inference.settings import InferenceSettings
from agents.inference.upstream import request as wire
from agents.inference.upstream.capabilities import Capabilities, probe
from agents.inference.upstream.failures import lost, translated
from agents.inference.upstream.modules import Modules
from agents.inference.upstream.queue import Turnstile
from agents.inference.upstream.settings import UpstreamSettings
from schemas.errors import KikiError, Unavailable
from schemas.findings import AdapterUse
from schemas.jobs import LANES, Lane

CLOSE_SECONDS = 10.0
"""Longest wait for a stream to close; cut short, it would leave its socket to the garbage collector."""

_log = structlog.get_logger("inference")


class Line:
    """One client with its places. ``why`` says why nobody is there, and is empty while somebody is."""

    def __init__(self, settings: InferenceSettings, upstream: UpstreamSettings) -> None:
        self.upstream = upstream
        self._warm = settings.candidate_temperature
        self._client = AsyncOpenAI(
            base_url=upstream.base_url,
            api_key=upstream.api_key or "none",
            max_retries=0,
            timeout=openai.Timeout(upstream.read_timeout, connect=upstream.connect_timeout),
        )
        self._completions: Any = self._client.chat.completions  # bodies are put together: no overload fits
        self._turnstile = Turnstile(upstream.max_concurrent, patience=settings.patience)
        self.modules = Modules(self._client, upstream)
        self.capabilities: Capabilities | None = None
        self.why = "the upstream has not answered yet"
        self.counts = dict.fromkeys(("tokens_decoded_total", "prompt_tokens_total", "upstream_errors_total"), 0.0)

    @property
    def gauges(self) -> dict[str, float]:
        """Calls that wait by lane, calls in flight, tokens and errors so far."""
        queues = {f"queue_{lane}": float(self._turnstile.depth(lane)) for lane in LANES}
        return {**queues, "active_requests": float(self._turnstile.inside), **self.counts}

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def look(self) -> None:
        """Whether it is there; one that was away must decode a token.

        Raises:
            KikiError: it is not, or refuses.
        """
        try:
            if self.capabilities is None or self.why:
                self.capabilities = await probe(self._client, self.upstream.model)
                _log.info("upstream answers", url=self.upstream.base_url, capabilities=self.capabilities.words)
            else:
                await self.modules.listing()
            self.why = ""
        except KikiError as error:
            self._note(error)
            raise

    def able(self) -> Capabilities:
        """What it does.

        Raises:
            Unavailable: it is away.
        """
        if self.capabilities is None or self.why:
            raise Unavailable(f"the upstream is away: {self.why}")
        return self.capabilities

    async def body(self, request: Request, uses: tuple[AdapterUse, ...], *, candidate: int = 0) -> dict[str, Any]:
        """One candidate's call, for :meth:`whole` or :meth:`streaming`; loads an adapter if the upstream needs that."""
        with self.telling():
            model, fields = await self.modules.fields(uses)
        return wire.body(request, candidate=candidate, candidate_temperature=self._warm, model=model, fields=fields)

    async def whole(self, body: dict[str, Any], *, lane: Lane) -> dict[str, Any]:
        """The whole reply."""
        async with self._turnstile.place(lane):
            with self.telling():
                reply = await self._completions.create(**body)
        found: dict[str, Any] = reply.model_dump(warnings=False)
        return found

    @contextlib.asynccontextmanager
    async def streaming(self, body: dict[str, Any], *, lane: Lane) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """The chunks of a stream, which is closed on the way out, whatever that way is."""
        async with self._turnstile.place(lane):
            with self.telling():
                stream = await self._completions.create(**body, stream=True, stream_options={"include_usage": True})
                chunks = _chunks(stream)
                try:
                    yield chunks
                finally:
                    with anyio.CancelScope(shield=True), anyio.move_on_after(CLOSE_SECONDS):
                        await chunks.aclose()
                        await stream.close()

    @contextlib.contextmanager
    def telling(self) -> Iterator[None]:
        """The client's errors as ours; a lost upstream is not there until it has decoded a token again."""
        try:
            yield
        except openai.OpenAIError as error:
            found = self._translated(error)
            self._note(found)
            raise found from error
        except Unavailable as error:
            self._note(error)
            raise

    def _translated(self, error: openai.OpenAIError) -> KikiError:
        if isinstance(error, openai.NotFoundError) and self.upstream.lora == "dynamic":
            return Unavailable("the upstream has forgotten a model; its adapters are loaded again")
        return translated(error)

    def _note(self, error: KikiError) -> None:
        self.counts["upstream_errors_total"] += 1
        if lost(error):
            self.why = error.message
            self.modules.forget()


async def _chunks(stream: Any) -> AsyncGenerator[dict[str, Any], None]:
    async for chunk in stream:
        yield chunk.model_dump(warnings=False)
