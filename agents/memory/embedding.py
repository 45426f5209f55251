"""Who embeds what is remembered: the router's embedder by default, or one of the memory's own."""

from collections.abc import Awaitable, Callable, Sequence

from msgspec.structs import replace

from agents.memory.ranking import ROLES
from agents.memory.settings import MemorySettings
from agents.memory.stores.errors import StoreAway
from bus.connection import Bus
from schemas.embedder import EmbedRequest
from schemas.episode import Episode
from schemas.errors import Unavailable

BATCH = 32
"""Texts in one request."""

EMBED_SECONDS = 60.0
QUERY_SECONDS = 1.0
"""Longest wait for the vector of one question."""

Vectors = Sequence[tuple[float, ...]]
Renew = Callable[[Sequence[Episode]], Awaitable[list[Episode]]]
"""Gives episodes whose embeddings are of the embedder in force."""


class MemoryEmbedder:
    """Asks the embedder in force over the bus."""

    def __init__(self, bus: Bus, settings: MemorySettings) -> None:
        self._bus = bus
        self._settings = settings

    async def embed(self, texts: Sequence[str], *, timeout: float = EMBED_SECONDS) -> Vectors:
        """The vectors of texts, in order.

        Raises:
            Unavailable: the embedder is away, or its vectors do not fit ``vector_size``.
        """
        request = EmbedRequest(texts=tuple(texts))
        reply = await self._bus.request(self._settings.embed_service, request, timeout=timeout)
        size = len(reply.vectors[0])
        if size != self._settings.vector_size:
            raise Unavailable(
                f"the memory's embedder gives {size} floats, and agents.memory.vector_size is "
                f"{self._settings.vector_size}: set it to {size}."
            )
        return reply.vectors

    async def renew(self, episodes: Sequence[Episode]) -> list[Episode]:
        """The episodes; those that another embedder embedded are embedded again, in batches.

        Raises:
            StoreAway: the embedder is away; nothing is wrong with the episodes.
        """
        stale = [episode for episode in episodes if is_stale(episode, self._settings)]
        renewed: dict[str, Episode] = {}
        for at in range(0, len(stale), BATCH):
            batch = stale[at : at + BATCH]
            try:
                vectors = await self.embed([embedding_text(episode.speaker, episode.question) for episode in batch])
            except Unavailable as error:
                raise StoreAway(f"episodes cannot be embedded again: {error.message}") from error
            for episode, vector in zip(batch, vectors, strict=True):
                renewed[episode.episode_id] = replace(
                    episode, embedding=vector, embedder=self._settings.embedder_in_force
                )
        return [renewed.get(episode.episode_id, episode) for episode in episodes]


def is_stale(episode: Episode, settings: MemorySettings) -> bool:
    """Whether the episode's embedding is not of the embedder in force. Of an old episode only the size is known."""
    if not (episode.embedding and settings.embedder_in_force):
        return False
    named_otherwise = bool(episode.embedder) and episode.embedder != settings.embedder_in_force
    return named_otherwise or len(episode.embedding) != settings.vector_size


def embedding_text(speaker: str, text: str) -> str:
    """The text that is embedded: who said what, because questions name people."""
    return text if speaker in ROLES else f"{speaker}: {text}"
