"""The embedder as an agent: the requests ``embed`` and ``compare``; it embeds candidates before ``compare`` comes."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import numpy as np

from agents.embedder.embedder import Embedder
from agents.embedder.settings import EmbedderSettings
from agents.shared.encoder import Floats
from agents.shared.similarity import answer_texts, texts_to_embed
from bus.agent import Endpoint
from bus.connection import Bus, LiveMessage
from bus.handler import Handler
from schemas.calls import COMPARE, EMBED, MEMORY_EMBED
from schemas.codec import decode
from schemas.embedder import CompareReply, CompareRequest, EmbedReply, EmbedRequest
from schemas.events import InferDone
from schemas.status import StatusReply

EMBEDDING_DIGITS = 6
"""Decimals of an embedding that leaves the agent: half the bytes, for an error of a few millionths in a cosine."""


class EmbedderAgent:
    """Turns texts into unit vectors, and compares texts."""

    name = "embedder"

    def __init__(self, settings: EmbedderSettings) -> None:
        self._settings = settings
        self._embedder = _make_embedder(settings.model, settings)
        self._memory_embedder = (
            None if settings.memory_model is None else _make_embedder(settings.memory_model, settings)
        )

    @contextlib.asynccontextmanager
    async def open(self, bus: Bus) -> AsyncIterator[None]:
        """Load the model as :meth:`load_model` does, and listen for candidates."""
        async with self.load_model(), contextlib.AsyncExitStack() as stack:
            if self._settings.ahead:
                subject = bus.subjects.stage(InferDone.subject)
                stop_listening = await bus.listen(subject, self._embed_ahead, queue="embedder-ahead")
                stack.push_async_callback(stop_listening)
            yield

    @contextlib.asynccontextmanager
    async def load_model(self) -> AsyncIterator[None]:
        """Load the models, ready for :meth:`embed` without a bus; their threads stop at the end.

        Raises:
            SetupError: the model cannot be loaded.
        """
        embedders = [self._embedder] if self._memory_embedder is None else [self._embedder, self._memory_embedder]
        try:
            for embedder in embedders:
                await anyio.to_thread.run_sync(embedder.start)
            yield
        finally:
            with anyio.CancelScope(shield=True):
                for embedder in embedders:
                    await anyio.to_thread.run_sync(embedder.stop)

    def handlers(self) -> Sequence[Handler[Any]]:
        """Reads no events that must be acknowledged."""
        return ()

    def endpoints(self) -> Sequence[Endpoint]:
        """Answers ``embed`` and ``compare``, and ``memory.embed`` when the memory has a model of its own."""
        own = Endpoint(MEMORY_EMBED, self.embed_for_memory)
        return (
            Endpoint(EMBED, self.embed),
            Endpoint(COMPARE, self.compare),
            *(() if self._memory_embedder is None else (own,)),
        )

    def status(self) -> StatusReply:
        """Ready while the model's thread lives."""
        embedder = self._embedder
        gauges = {
            "dimensions": embedder.width,
            "max_tokens": embedder.max_tokens,
            "embed_batches": embedder.batches,
            "embedded_texts": embedder.embedded_texts,
            "embed_cache_hits": embedder.hits,
            "embed_queue": embedder.waiting,
            "embed_seconds": embedder.compute,
        }
        return StatusReply(
            agent=self.name,
            ready=embedder.alive,
            gauges={name: float(value) for name, value in gauges.items()},
            info={"model": self._settings.model_name or self._settings.model.name},
        )

    async def embed(self, request: EmbedRequest) -> EmbedReply:
        """The unit vectors of texts."""
        return await _embed(self._embedder, request)

    async def embed_for_memory(self, request: EmbedRequest) -> EmbedReply:
        """The unit vectors of texts by the memory's own model, or by the one model that there is."""
        return await _embed(self._memory_embedder or self._embedder, request)

    async def compare(self, request: CompareRequest) -> CompareReply:
        """The cosines of each two texts: a few numbers, where a reply with the vectors would hold thousands."""
        embeddings = await self._embedder.embed(request.texts)
        cosines = np.clip(embeddings.vectors @ embeddings.vectors.T, -1.0, 1.0)
        return CompareReply(cosines=_wire_rows(cosines), compute=embeddings.compute, began_at=embeddings.began_at)

    async def _embed_ahead(self, message: LiveMessage) -> None:
        """Embed a turn's candidates while their event is on the way to the stage that compares them."""
        event = decode(InferDone, message.data)
        if event.route.plan.negotiate:
            self._embedder.embed_ahead(
                texts_to_embed(answer_texts(event.inference.candidates), question=event.query.text)
            )


def _make_embedder(model: Path, settings: EmbedderSettings) -> Embedder:
    return Embedder(
        model,
        batch_wait=settings.batch_wait,
        batch_size=settings.batch_size,
        cache_size=settings.cache_size,
        max_tokens=settings.max_tokens,
        threads=settings.threads,
    )


async def _embed(embedder: Embedder, request: EmbedRequest) -> EmbedReply:
    embeddings = await embedder.embed(request.texts)
    return EmbedReply(
        vectors=_wire_rows(embeddings.vectors),
        compute=embeddings.compute,
        tokens=embeddings.tokens,
        max_tokens=embedder.max_tokens,
    )


def _wire_rows(rows: Floats) -> tuple[tuple[float, ...], ...]:
    """``[n, width]`` as a reply holds it: each row a tuple of rounded numbers."""
    numbers: list[list[float]] = np.round(rows.astype(np.float64), EMBEDDING_DIGITS).tolist()
    return tuple(map(tuple, numbers))
