"""A person's history in and out of the record: import of JSONL, export as JSONL."""

import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import anyio

from agents.memory import imports
from agents.memory.progress import wait_until_projected
from bus import record
from bus.connection import Bus
from bus.topology import EPISODES
from runtime.local_embedder import BATCH, Embed
from schemas.episode import Episode
from schemas.events import EpisodeRecorded


@dataclass(frozen=True)
class ImportCount:
    """How many lines became episodes, and how many were there before."""

    new: int
    known: int


async def import_entries(
    bus: Bus,
    entries: Sequence[imports.DatedLine],
    embed: Embed,
    *,
    tenant: str,
    tick: Callable[[int], None],
    embedder: str = "",
) -> ImportCount:
    """Record every line that is not recorded yet, in batches, and wait until recall can find them.

    ``tick`` is called with the number of lines of each batch; ``embedder`` names the model behind ``embed``.

    Raises:
        Unavailable: the broker or the embedder is away; importing again goes on where it stopped.
    """
    new = 0
    for at in range(0, len(entries), BATCH):
        batch = entries[at : at + BATCH]
        fresh = [entry for entry in batch if not await _is_recorded(bus, entry, tenant)]
        if fresh:
            vectors = await embed([entry.line.embedding_text for entry in fresh])
            async with anyio.create_task_group() as tasks:
                for entry, vector in zip(fresh, vectors, strict=True):
                    tasks.start_soon(bus.publish, imports.build_event(entry, vector, tenant=tenant, embedder=embedder))
        new += len(fresh)
        tick(len(batch))
    await wait_until_projected(bus)
    return ImportCount(new, len(entries) - new)


async def export_lines(bus: Bus, *, tenant: str) -> AsyncGenerator[str, None]:
    """The tenant's record as JSONL that :func:`import_entries` reads: a line an utterance, oldest first."""
    async with aclosing(record.read_episodes(bus, tenant=tenant)) as episodes:
        async for episode in episodes:
            if episode.summarises:
                continue  # the episodes that it sums up are exported themselves
            for line in _lines(episode):
                yield json.dumps(line, ensure_ascii=False)


async def _is_recorded(bus: Bus, entry: imports.DatedLine, tenant: str) -> bool:
    turn_id = imports.turn_id(entry, tenant=tenant)
    return await bus.last(EpisodeRecorded, turn_id, stream=EPISODES) is not None


def _lines(episode: Episode) -> list[dict[str, str | float]]:
    common: dict[str, str | float] = {"session": episode.session_id, "timestamp": episode.created_at}
    if episode.source_id:
        return [{**common, "speaker": episode.speaker, "text": episode.question, "id": episode.source_id}]
    utterances = (("user", episode.question), ("assistant", episode.answer))
    return [
        {**common, "role": role, "text": text, "id": f"{episode.turn_id}:{role}"} for role, text in utterances if text
    ]
