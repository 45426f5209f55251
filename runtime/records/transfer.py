"""A person's history in and out of the record: import of JSONL, export as JSONL."""

import json
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import anyio

from agents.memory import imports
from agents.memory.progress import caught_up
from bus import record
from bus.connection import Bus
from bus.topology import EPISODES
from runtime.local_embedder import BATCH, Embed
from schemas.episode import Episode
from schemas.events import EpisodeRecorded


@dataclass(frozen=True)
class Imported:
    """How many lines became episodes, and how many were there before."""

    new: int
    known: int


async def bring(
    bus: Bus, said: Sequence[imports.Told], embed: Embed, *, tenant: str, tick: Callable[[int], None]
) -> Imported:
    """Record every line that is not recorded yet, in batches, and wait until recall can find them.

    ``tick`` hears how many lines each batch had.

    Raises:
        Unavailable: the broker or the embedder is away; importing again goes on where it stopped.
    """
    new = 0
    for at in range(0, len(said), BATCH):
        batch = said[at : at + BATCH]
        fresh = [one for one in batch if not await _known(bus, one, tenant)]
        if fresh:
            vectors = await embed([one.line.embedded for one in fresh])
            async with anyio.create_task_group() as tasks:
                for one, vector in zip(fresh, vectors, strict=True):
                    tasks.start_soon(bus.publish, imports.event(one, vector, tenant=tenant))
        new += len(fresh)
        tick(len(batch))
    await caught_up(bus, (await bus.js.stream_info(EPISODES)).state.last_seq)
    return Imported(new, len(said) - new)


async def exported(bus: Bus, *, tenant: str) -> AsyncGenerator[str, None]:
    """The tenant's record as JSONL that :func:`bring` reads: a line an utterance, oldest first."""
    async with aclosing(record.episodes(bus, tenant=tenant)) as episodes:
        async for episode in episodes:
            if episode.summarises:
                continue  # what it says is in the others
            for line in _lines(episode):
                yield json.dumps(line, ensure_ascii=False)


async def _known(bus: Bus, said: imports.Told, tenant: str) -> bool:
    turn_id = imports.turn_id(said, tenant=tenant)
    return await bus.last(EpisodeRecorded, turn_id, stream=EPISODES) is not None


def _lines(episode: Episode) -> list[dict[str, str | float]]:
    common: dict[str, str | float] = {"session": episode.session_id, "timestamp": episode.created_at}
    if episode.source_id:
        return [{**common, "speaker": episode.speaker, "text": episode.question, "id": episode.source_id}]
    said = (("user", episode.question), ("assistant", episode.answer))
    return [{**common, "role": role, "text": text, "id": f"{episode.turn_id}:{role}"} for role, text in said if text]
