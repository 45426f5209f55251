"""Projects the record into the stores: idempotent, in batches that share one sync to disk (group commit)."""

from collections.abc import Mapping, Sequence
from functools import cache

from msgspec import Struct
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from agents.memory.context import unit, unpacked, windows
from agents.memory.embedding import Renew
from agents.memory.episodes import owner_of, store_key
from agents.memory.ranking import replaces
from agents.memory.stores.errors import StoreAway, StoreFull
from agents.memory.stores.pair import Stores
from agents.memory.stores.room import require_room
from agents.memory.stores.stored import Lookup, unscored_match
from agents.memory.superseding import least_cosine
from agents.memory.text.claims import read_claims
from agents.memory.text.words import WordEncoder, coverage
from bus import failpoints, metrics
from schemas.episode import Episode
from schemas.errors import KikiError, Unavailable

AWAY_SECONDS = 5.0
"""Longest pause, in seconds, between two tries while a store takes nothing."""

NEAR = 16
"""Episodes that a new one is compared with, in case one of the two replaces the other."""


async def project_episodes(
    stores: Stores, episodes: Sequence[Episode], *, recorded_at: Mapping[str, float] | None = None
) -> None:
    """Store the episodes in Trace, then in Atlas with their neighbours in time. Applying them again changes nothing.

    An episode without an embedding is found by its words alone. ``recorded_at`` is the Unix time, by episode id, at
    which the record got each.

    Raises:
        Unavailable: a store failed; the batch must be applied again.
    """
    for episode in episodes:
        if episode.embedding and len(episode.embedding) != stores.settings.vector_size:
            metrics.count_degraded(
                "atlas.vector_size",
                f"an episode's embedding has {len(episode.embedding)} floats, expected "
                f"{stores.settings.vector_size}: it is found by its words alone.",
            )
    await failpoints.pass_window("projection.begun")
    orders = await stores.trace.upsert(episodes, recorded_at=recorded_at)
    await failpoints.pass_window("projection.traced")
    new_keys = {store_key(episode.tenant, "episode", episode.episode_id) for episode in episodes}
    near = {name: window for order in orders for name, window in windows(order, new_keys).items()}
    await stores.atlas.place(episodes, near)
    await failpoints.pass_window("projection.placed")
    part_keys = {store_key(episode.tenant, "episode", part) for episode in episodes for part in episode.summarises}
    for (summary, node), names in (await stores.trace.summaries(new_keys | part_keys)).items():
        await stores.atlas.mark_summarised(await find_covered_parts(stores, node, names), summary)
    await stores.trace.supersede({pair for episode in episodes for pair in await find_replacements(stores, episode)})
    await failpoints.pass_window("projection.done")


async def find_covered_parts(stores: Stores, summary: str, parts: Sequence[str]) -> list[str]:
    """Find the parts whose words are mostly in the summary. The others keep their rank: the model left them out.

    ``summary`` and ``parts`` are store keys.
    """
    matches = await stores.atlas.read([summary, *parts])
    encoder = _word_encoder(stores.settings.language)
    texts = {name: encoder.counts(f"{match.question}\n{match.answer}") for name, match in matches.items()}
    share, summary_words = stores.settings.summarised_share, texts.get(summary, {})
    return [name for name in parts if name in texts and coverage(texts[name], summary_words) >= share]


@cache
def _word_encoder(language: str) -> WordEncoder:
    return WordEncoder(language)


async def find_replacements(stores: Stores, episode: Episode) -> set[tuple[str, str]]:
    """Find what the episode replaces and what replaces it: pairs of store keys, the newer episode first.

    The rule is recall's, without a model (:func:`agents.memory.ranking.replaces`). Only the :data:`NEAR` nearest
    episodes in Atlas, and as many with the same words, are compared; an episode that claims nothing with none.
    """
    settings = stores.settings
    least = least_cosine(settings.embedder_in_force, settings.same_fact)
    if least >= 1.0 or len(episode.embedding) != settings.vector_size or not any(read_claims(episode.question)):
        return set()
    mine, own = unscored_match(episode), unit(episode.embedding)
    lookup = Lookup(owner=owner_of(episode), vector=episode.embedding, text=episode.question, limit=NEAR)
    pairs: set[tuple[str, str]] = set()
    for match in await stores.atlas.search(lookup):
        vector = unpacked(match.vector)
        if vector is None or float(vector @ own) < least:
            continue
        older, newer = sorted((mine, match), key=lambda side: (side.created_at, side.episode_id))
        if replaces(newer, older):
            newer_key, older_key = (store_key(episode.tenant, "episode", side.episode_id) for side in (newer, older))
            pairs.add((newer_key, older_key))
    return pairs


class _QueuedEpisode(Struct, eq=False):
    episode: Episode
    recorded_at: float
    done: bool = False
    error: KikiError | None = None


def _count_away(state: RetryCallState) -> None:
    metrics.count_degraded("projection.away", str(state.outcome.exception()) if state.outcome else "")


class Projection:
    """Gathers the episodes that wait: the caller that gets the lock first applies all of them.

    ``problem`` says what the stores' disk lacks; empty while it has room.
    """

    def __init__(self, stores: Stores, renew: Renew) -> None:
        self._stores = stores
        self._renew = renew
        self._waiting: list[_QueuedEpisode] = []
        self.problem = ""

    async def add_once_there(self, episode: Episode, *, recorded_at: float) -> None:
        """Apply the episode as :meth:`add` does, again and again while a store takes nothing.

        Its message stays unacknowledged meanwhile, and is not given up.

        Raises:
            Unavailable: a store failed on this episode.
        """
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(StoreAway),
            wait=wait_random_exponential(multiplier=0.2, max=AWAY_SECONDS),
            before_sleep=_count_away,
        ):
            with attempt:
                await self.add(episode, recorded_at=recorded_at)

    async def add(self, episode: Episode, *, recorded_at: float) -> None:
        """Apply the episode, together with the others that wait by then; returns when it is on disk.

        ``recorded_at`` is when the record got it (Unix time).

        Raises:
            Unavailable: a store failed on this episode.
        """
        mine = _QueuedEpisode(episode, recorded_at)
        self._waiting.append(mine)
        try:
            async with self._stores.write_lock:
                if not mine.done:
                    batch, self._waiting = self._waiting, []
                    await self._apply(batch)
        finally:
            if mine in self._waiting:
                self._waiting.remove(mine)
        if mine.error is not None:
            raise mine.error

    async def _apply(self, batch: list[_QueuedEpisode]) -> None:
        """Apply all at once, or one by one when that fails, so that one bad episode does not fail the others."""
        try:
            await self._try(batch)
            if len(batch) > 1 and batch[0].error is not None and not isinstance(batch[0].error, StoreAway):
                for entry in batch:
                    await self._try([entry])
        finally:
            for entry in batch:
                if not entry.done:  # cancelled half-way
                    entry.done, entry.error = (
                        True,
                        Unavailable("the projection was interrupted; the episode is delivered again."),
                    )

    async def _try(self, batch: list[_QueuedEpisode]) -> None:
        error: KikiError | None = None
        try:
            times = {entry.episode.episode_id: entry.recorded_at for entry in batch}
            episodes = await self._renew([entry.episode for entry in batch])
            require_room(self._stores.settings)
            await project_episodes(self._stores, episodes, recorded_at=times)
        except KikiError as failed:
            error = self._find_cause(failed)
        self.problem = error.message if isinstance(error, StoreFull) else ""
        for entry in batch:
            entry.done, entry.error = True, error

    def _find_cause(self, error: KikiError) -> KikiError:
        """The lack of room, if there is one by now: a store says only that it failed."""
        try:
            require_room(self._stores.settings)
        except StoreFull as lack:
            return lack
        return error
