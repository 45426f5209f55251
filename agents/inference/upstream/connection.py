"""The connection to the upstream: limits the calls at once, translates errors, and tracks whether it answers.

The client does not retry: the broker delivers the message again, and counts the tries.
"""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from typing import Any

import anyio
import openai
import structlog
from openai import AsyncOpenAI

from agents.inference.requests import Request
from agents.inference.settings import InferenceSettings, UpstreamSettings
from agents.inference.upstream.capabilities import Capabilities, probe
from agents.inference.upstream.failures import is_outage, translate_error
from agents.inference.upstream.modules import LoraModules
from agents.inference.upstream.queue import CallQueue
from agents.inference.upstream.request import request_body
from agents.inference.upstream.response import chat_form
from schemas.errors import KikiError, StageFailed, Unavailable
from schemas.findings import AdapterUse
from schemas.jobs import LANES

CLOSE_SECONDS = 10.0
"""Longest wait for a stream to close; cut short, it would leave its socket to the garbage collector."""

_log = structlog.get_logger("inference")


class UpstreamConnection:
    """One client and the queue of its calls. ``outage`` says why the upstream does not answer; it is empty while it
    does."""

    def __init__(self, settings: InferenceSettings, upstream: UpstreamSettings) -> None:
        self.upstream = upstream
        self._candidate_temperature = settings.candidate_temperature
        self._client = AsyncOpenAI(
            base_url=upstream.base_url,
            api_key=upstream.api_key or "none",
            max_retries=0,
            timeout=openai.Timeout(upstream.read_timeout, connect=upstream.connect_timeout),
        )
        self._calls = CallQueue(upstream.max_concurrent, patience=settings.patience)
        self.modules = LoraModules(self._client, upstream)
        self.capabilities: Capabilities | None = None
        self.outage = "the upstream has not answered yet"
        self.can_count = True
        """Whether it counted tokens when it was last asked to; true before."""
        self.counts = dict.fromkeys(("tokens_decoded_total", "prompt_tokens_total", "upstream_errors_total"), 0.0)

    @property
    def gauges(self) -> dict[str, float]:
        """Calls that wait by lane, calls in flight, tokens and errors so far; the context, 0 when it is not known."""
        queues = {f"queue_{lane}": float(self._calls.depth(lane)) for lane in LANES}
        context_tokens = float(self.modules.context_tokens)
        return {
            **queues,
            "active_requests": float(self._calls.inside),
            "context_tokens": context_tokens,
            "parameters": 0.0,
            **self.counts,
        }

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

    async def check_upstream(self) -> None:
        """Check whether the upstream answers; after an outage it must decode a token first.

        Raises:
            KikiError: it does not answer, or refuses.
        """
        try:
            if self.capabilities is None or self.outage:
                self.capabilities = await probe(self._client, self.upstream.model)
                with contextlib.suppress(KikiError):  # some servers list nothing
                    await self.modules.list_adapters()
                _log.info("upstream answers", url=self.upstream.base_url, capabilities=self.capabilities.names)
            else:
                await self.modules.list_adapters()
            self.outage = ""
        except KikiError as error:
            self._note_failure(error)
            raise

    def require_capabilities(self) -> Capabilities:
        """What the upstream can do.

        Raises:
            Unavailable: it is away.
        """
        if self.capabilities is None or self.outage:
            raise Unavailable(f"the upstream is away: {self.outage}")
        return self.capabilities

    async def build_body(self, request: Request, uses: tuple[AdapterUse, ...], *, candidate: int = 0) -> dict[str, Any]:
        """One candidate's call, for :meth:`complete` or :meth:`open_stream`; loads an adapter if the upstream needs
        that."""
        with self.translate_errors():
            model, fields = await self.modules.prepare_fields(uses)
        return request_body(
            request, candidate=candidate, candidate_temperature=self._candidate_temperature, model=model, fields=fields
        )

    async def complete(self, body: dict[str, Any], *, request: Request) -> dict[str, Any]:
        """The whole reply."""
        async with self._calls.hold_slot(request.lane, request.tenant):
            with self.translate_errors():
                reply = await self._api_for(body).create(**body)
        return _read_reply(reply, body)

    async def count_tokens(self, body: dict[str, Any]) -> int:
        """What vLLM's ``/tokenize`` counts, which lies beside ``/v1``.

        Raises:
            StageFailed: the upstream does not have it.
        """
        url = f"{self.upstream.base_url.rstrip('/').removesuffix('/v1')}/tokenize"
        reply: object = None
        with self.translate_errors(), contextlib.suppress(openai.NotFoundError):
            reply = await self._client.post(url, cast_to=object, body={"model": self.upstream.model, **body})
        count = reply.get("count") if isinstance(reply, dict) else None
        self.can_count = isinstance(count, int)
        if not isinstance(count, int):
            raise StageFailed(
                "the upstream cannot count the tokens of a conversation: it has no /tokenize that takes messages.",
                code="upstream_refused",
            )
        return count

    @contextlib.asynccontextmanager
    async def open_stream(
        self, body: dict[str, Any], *, request: Request
    ) -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """The chunks of a stream; it is closed at the end, after an error or a cancellation too."""
        async with self._calls.hold_slot(request.lane, request.tenant):
            with self.translate_errors():
                options = {"stream": True, "stream_options": {"include_usage": True}}
                stream = await self._api_for(body).create(**body, **options)
                chunks = _read_chunks(stream, body)
                try:
                    yield chunks
                finally:
                    with anyio.CancelScope(shield=True), anyio.move_on_after(CLOSE_SECONDS):
                        await chunks.aclose()
                        await stream.close()

    def _api_for(self, body: Mapping[str, Any]) -> Any:
        """Where a body is sent; bodies are put together, which the overloads of the client cannot follow."""
        return self._client.completions if "prompt" in body else self._client.chat.completions

    @contextlib.contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Turn the client's errors into this program's own.

        After a lost connection the upstream counts as away until it has decoded a token again.
        """
        try:
            yield
        except openai.OpenAIError as error:
            failure = self._translate_error(error)
            self._note_failure(failure)
            raise failure from error
        except Unavailable as error:
            self._note_failure(error)
            raise

    def _translate_error(self, error: openai.OpenAIError) -> KikiError:
        if isinstance(error, openai.NotFoundError) and self.upstream.lora == "dynamic":
            return Unavailable("the upstream has forgotten a model: its adapters are loaded again")
        return translate_error(error)

    def _note_failure(self, error: KikiError) -> None:
        self.counts["upstream_errors_total"] += 1
        if is_outage(error):
            self.outage = error.message
            self.modules.forget()


async def _read_chunks(stream: Any, body: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
    async for chunk in stream:
        yield _read_reply(chunk, body)


def _read_reply(reply: Any, body: Mapping[str, Any]) -> dict[str, Any]:
    """A reply or a chunk, in the form of a chat's."""
    fields: dict[str, Any] = reply.model_dump(warnings=False)
    return chat_form(fields) if "prompt" in body else fields
