"""From the record into the stores: idempotent, in batches that share one sync to disk (group commit)."""

from collections.abc import Mapping, Sequence
from functools import cache

from msgspec import Struct

from agents.memory.context import unit, unpacked, windows
from agents.memory.episodes import key
from agents.memory.ranking import replaces
from agents.memory.stores.errors import StoreAway
from agents.memory.stores.pair import Stores
from agents.memory.stores.points import Ask, placed
from agents.memory.words import Words, covered
from bus import metrics
from schemas.episode import Episode
from schemas.errors import KikiError, Unavailable

NEAR = 16
"""Episodes that a new one is compared with, in case one of the two replaces the other."""


async def apply(stores: Stores, episodes: Sequence[Episode], *, recorded_at: Mapping[str, float] | None = None) -> None:
    """Store the episodes in Trace, then in Atlas with their neighbours in time. Again changes nothing.

    An episode without an embedding is found by its words alone. ``recorded_at`` tells by episode id when the record
    got it.

    Raises:
        Unavailable: a store failed; the batch must be applied again.
    """
    for episode in episodes:
        if episode.embedding and len(episode.embedding) != stores.settings.vector_size:
            metrics.degraded(
                "atlas.vector_size",
                f"an episode's embedding has {len(episode.embedding)} floats, expected "
                f"{stores.settings.vector_size}: it is found by its words alone.",
            )
    orders = await stores.trace.upsert(episodes, recorded_at=recorded_at)
    changed = {key(one.tenant, "episode", one.episode_id) for one in episodes}
    near = {name: window for order in orders for name, window in windows(order, changed).items()}
    await stores.atlas.place(episodes, near)
    summed = {key(one.tenant, "episode", part) for one in episodes for part in one.summarises}
    for (summary, node), names in (await stores.trace.summaries(changed | summed)).items():
        await stores.atlas.mark(await told_again(stores, node, names), summary)
    await stores.trace.supersede({pair for one in episodes for pair in await replacing(stores, one)})


async def told_again(stores: Stores, summary: str, parts: Sequence[str]) -> list[str]:
    """Those of ``parts`` whose words are mostly in the summary: what a model left out must not rank lower for it."""
    known = await stores.atlas.read([summary, *parts])
    words = _words(stores.settings.language)
    texts = {name: words.counts(f"{one.question}\n{one.answer}") for name, one in known.items()}
    share, told = stores.settings.summarised_share, texts.get(summary, {})
    return [name for name in parts if name in texts and covered(texts[name], told) >= share]


@cache
def _words(language: str) -> Words:
    return Words(language)


async def replacing(stores: Stores, episode: Episode) -> set[tuple[str, str]]:
    """The keys of newer and older that the episode forms with those it replaces, or that replace it.

    Decided as recall does, without a model: the same speaker, embeddings at least ``same_fact`` alike, another text;
    among the :data:`NEAR` that Atlas finds nearest.
    """
    if len(episode.embedding) != stores.settings.vector_size:
        return set()
    mine, own = placed(episode), unit(episode.embedding)
    ask = Ask(tenant=episode.tenant, vector=episode.embedding, limit=NEAR)
    found: set[tuple[str, str]] = set()
    for match in await stores.atlas.search(ask):
        vector = unpacked(match.vector)
        if vector is None or float(vector @ own) < stores.settings.same_fact:
            continue
        older, newer = sorted((mine, match), key=lambda one: (one.created_at, one.episode_id))
        if replaces(newer, older):
            newer_key, older_key = (key(episode.tenant, "episode", one.episode_id) for one in (newer, older))
            found.add((newer_key, older_key))
    return found


class _Waiting(Struct, eq=False):
    episode: Episode
    recorded_at: float
    done: bool = False
    error: KikiError | None = None


class Projection:
    """Gathers what is waiting: who gets the lock first applies everybody's episode."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self._waiting: list[_Waiting] = []

    async def add(self, episode: Episode, *, recorded_at: float) -> None:
        """Apply the episode, together with the others that wait by then; returns when it is on disk.

        ``recorded_at`` is when the record got it (Unix time).

        Raises:
            Unavailable: a store failed on this episode.
        """
        mine = _Waiting(episode, recorded_at)
        self._waiting.append(mine)
        try:
            async with self._stores.changing:
                if not mine.done:
                    batch, self._waiting = self._waiting, []
                    await self._apply(batch)
        finally:
            if mine in self._waiting:
                self._waiting.remove(mine)
        if mine.error is not None:
            raise mine.error

    async def _apply(self, batch: list[_Waiting]) -> None:
        """All at once; one by one when that fails, so that a poison episode takes nobody with it."""
        try:
            await self._try(batch)
            if len(batch) > 1 and batch[0].error is not None and not isinstance(batch[0].error, StoreAway):
                for one in batch:
                    await self._try([one])
        finally:
            for one in batch:
                if not one.done:  # cancelled half-way
                    one.done, one.error = True, Unavailable("the projection was interrupted; the episode comes again.")

    async def _try(self, batch: list[_Waiting]) -> None:
        error: KikiError | None = None
        try:
            times = {one.episode.episode_id: one.recorded_at for one in batch}
            await apply(self._stores, [one.episode for one in batch], recorded_at=times)
        except KikiError as failed:
            error = failed
        for one in batch:
            one.done, one.error = True, error
