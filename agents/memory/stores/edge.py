"""Atlas embedded: qdrant-edge's shard on a thread of its own."""

from collections.abc import Sequence
from functools import partial

from agents.memory.ranking import Match
from agents.memory.settings import MemorySettings
from agents.memory.stores.embedded import EmbeddedStore
from agents.memory.stores.points import Atlas
from agents.memory.stores.room import require_room
from agents.memory.stores.stored import Lookup, StoredPoint, Windows
from agents.memory.text.words import WordEncoder
from schemas.episode import Episode


class EdgeAtlas:
    """The shard in ``data_dir/atlas``; see :class:`agents.memory.stores.protocols.AtlasStore`."""

    name = "atlas"
    away = ""

    def __init__(self, settings: MemorySettings, words: WordEncoder | None = None) -> None:
        self._settings = settings
        words = words or WordEncoder(settings.language)
        self.store = EmbeddedStore(
            self.name,
            settings.data_dir / "atlas",
            opener=partial(Atlas.open, size=settings.vector_size, words=words),
            creator=partial(Atlas.create, size=settings.vector_size, words=words),
        )
        self.load = self.store.load
        self.renew = self.store.renew
        self.close = self.store.close

    @property
    def stuck(self) -> str:
        """See :class:`agents.memory.stores.protocols.Store`."""
        return self.store.stuck

    async def place(self, episodes: Sequence[Episode], windows: Windows) -> None:
        """See :meth:`.points.Atlas.place`."""
        require_room(self._settings)
        await self.store.write(lambda atlas: atlas.place(episodes, windows))

    async def search(self, lookup: Lookup) -> list[Match]:
        """See :meth:`.points.Atlas.search`; abandoned when the caller is cancelled."""
        return await self.store.run(lambda atlas: atlas.search(lookup), abandon=True)

    async def read(self, names: Sequence[str]) -> dict[str, Match]:
        """See :meth:`.points.Atlas.read`."""
        return await self.store.run(lambda atlas: atlas.read(names))

    async def contents(self, names: Sequence[str]) -> dict[str, StoredPoint]:
        """See :meth:`.points.Atlas.contents`."""
        return await self.store.run(lambda atlas: atlas.contents(names))

    async def mark_summarised(self, names: Sequence[str], summary: str) -> None:
        """See :meth:`.points.Atlas.mark_summarised`."""
        require_room(self._settings)
        await self.store.write(lambda atlas: atlas.mark_summarised(names, summary))

    async def remove(self, names: Sequence[str], windows: Windows) -> None:
        """See :meth:`.points.Atlas.remove`."""
        require_room(self._settings)
        await self.store.write(lambda atlas: atlas.remove(names, windows))

    async def find_transcript(self, transcript: str, *, tenant: str, user: str) -> list[tuple[str, str]]:
        """See :meth:`.points.Atlas.find_transcript`."""
        return await self.store.run(lambda atlas: atlas.find_transcript(transcript, tenant=tenant, user=user))

    async def keys(self, *, tenant: str | None = None, user: str | None = None) -> set[str]:
        """See :meth:`.points.Atlas.keys`."""
        return await self.store.run(lambda atlas: atlas.keys(tenant=tenant, user=user))

    async def count(self) -> int:
        """See :meth:`.points.Atlas.count`."""
        return await self.store.run(lambda atlas: atlas.count())
