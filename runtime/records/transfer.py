"""A person's history in and out of the record: import of JSONL, export as JSONL."""

import json
import re
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream

from agents.memory import imports
from agents.memory.progress import wait_until_projected
from bus import record
from bus.connection import Bus
from runtime.exits import first_error
from runtime.local_embedder import BATCH, Embed
from schemas.envelope import MAX_USER, TENANT_PATTERN, USER_PATTERN
from schemas.episode import Episode
from schemas.errors import InvalidInput
from schemas.events import EpisodeForgotten, EpisodeRecorded

EmbeddedBatch = tuple[Sequence[imports.DatedLine], Sequence[tuple[float, ...]]]
"""Lines with their vectors."""

LineState = Literal["new", "known", "forgotten", "other"]
"""What the record has of a line: nothing, the same, a tombstone, or something else under its id."""


@dataclass(frozen=True)
class ImportCount:
    """How many lines became episodes, were there before, and stay forgotten."""

    new: int
    known: int
    forgotten: int = 0


@dataclass(frozen=True)
class ImportPlan:
    """What an import would do: the lines to record, those that it leaves alone, and those that it refuses."""

    new: tuple[imports.DatedLine, ...]
    known: int
    forgotten: int
    bad: tuple[imports.BadLine, ...]


async def plan_import(bus: Bus, entries: Sequence[imports.DatedLine], *, tenant: str, user: str) -> ImportPlan:
    """Look every line up in the record. One whose id the record has for something else is refused.

    Raises:
        InvalidInput: the tenant's or the user's name is no name.
        Unavailable: the broker is away.
    """
    _check_owner(tenant, user)
    states: dict[int, LineState] = {}

    async def look_up(entry: imports.DatedLine) -> None:
        states[entry.number] = await _find_state(bus, entry, tenant, user)

    for batch in _batches(entries):
        async with anyio.create_task_group() as tasks:
            for entry in batch:
                tasks.start_soon(look_up, entry)
    counts = Counter(states.values())
    bad = [
        imports.BadLine(
            entry.number,
            "id",
            f"the id '{entry.line.name}' of session '{entry.line.session_id}' is recorded with another text or speaker",
        )
        for entry in entries
        if states[entry.number] == "other"
    ]
    new = tuple(entry for entry in entries if states[entry.number] == "new")
    return ImportPlan(new, counts["known"], counts["forgotten"], tuple(bad))


async def import_entries(
    bus: Bus, entries: Sequence[imports.DatedLine], embed: Embed, *, tenant: str, user: str, tick: Callable[[int], None]
) -> ImportCount:
    """Plan the import and do it.

    Raises:
        InvalidInput: a line is refused; nothing was recorded.
        Unavailable: the broker or the embedder is away; importing again goes on where it stopped.
    """
    plan = await plan_import(bus, entries, tenant=tenant, user=user)
    imports.refuse(plan.bad, source="the history")
    await record_entries(bus, plan.new, embed, tenant=tenant, user=user, tick=tick)
    return ImportCount(len(plan.new), plan.known, plan.forgotten)


async def record_entries(
    bus: Bus, entries: Sequence[imports.DatedLine], embed: Embed, *, tenant: str, user: str, tick: Callable[[int], None]
) -> None:
    """Record lines in batches, and wait until recall can find them.

    The next batch is embedded while one is written, as the broker syncs every line to disk. ``tick`` is called with the
    number of lines of each batch.

    Raises:
        Unavailable: the broker or the embedder is away; importing again goes on where it stopped.
    """
    sender, receiver = anyio.create_memory_object_stream[EmbeddedBatch](max_buffer_size=1)
    try:
        async with anyio.create_task_group() as tasks, sender:
            tasks.start_soon(_publish_batches, bus, receiver, tenant, user, tick)
            for batch in _batches(entries):
                await sender.send((batch, await embed([entry.line.embedding_text for entry in batch])))
    except BaseExceptionGroup as group:
        raise first_error(group) from group
    await wait_until_projected(bus)


async def export_lines(bus: Bus, *, tenant: str, user: str) -> AsyncGenerator[str, None]:
    """The user's record as JSONL that :func:`import_entries` reads: a line an utterance, oldest first."""
    async with aclosing(record.read_episodes(bus, tenant=tenant, user=user)) as episodes:
        async for episode in episodes:
            if episode.summarises:
                continue  # the episodes that it sums up are exported themselves
            for line in _lines(episode):
                yield json.dumps(line, ensure_ascii=False)


async def _publish_batches(
    bus: Bus, receiver: MemoryObjectReceiveStream[EmbeddedBatch], tenant: str, user: str, tick: Callable[[int], None]
) -> None:
    async with receiver:
        async for batch, vectors in receiver:
            async with anyio.create_task_group() as tasks:
                for entry, vector in zip(batch, vectors, strict=True):
                    tasks.start_soon(bus.publish, imports.build_event(entry, vector, tenant=tenant, user=user))
            tick(len(batch))


async def _find_state(bus: Bus, entry: imports.DatedLine, tenant: str, user: str) -> LineState:
    line = entry.line
    recorded = await record.find_entry(bus, imports.turn_id(line, tenant=tenant, user=user))
    if isinstance(recorded, EpisodeForgotten):
        return "forgotten"
    if recorded is not None:
        return "known" if _is_same(recorded.episode, line) else "other"
    former = imports.former_turn_id(entry, tenant=tenant, user=user)
    earlier = None if former is None else await record.find_entry(bus, former)
    return "known" if isinstance(earlier, EpisodeRecorded) and _is_same(earlier.episode, line) else "new"


def _is_same(episode: Episode, line: imports.HistoryLine) -> bool:
    return (episode.question, episode.speaker) == (line.text, line.author)


def _check_owner(tenant: str, user: str) -> None:
    if not re.fullmatch(TENANT_PATTERN, tenant):
        raise InvalidInput(f"'{tenant}' is no tenant: use letters, digits and _ . @ - (128 at most).", param="tenant")
    if len(user) > MAX_USER or not re.fullmatch(USER_PATTERN, user):
        raise InvalidInput(f"{user!r} is no user: one line of at most {MAX_USER} characters.", param="user")


def _batches(entries: Sequence[imports.DatedLine]) -> Iterator[Sequence[imports.DatedLine]]:
    return (entries[start : start + BATCH] for start in range(0, len(entries), BATCH))


def _lines(episode: Episode) -> list[dict[str, str | float]]:
    common: dict[str, str | float] = {"session": episode.session_id, "timestamp": episode.created_at}
    if episode.source_id:
        return [{**common, "speaker": episode.speaker, "text": episode.question, "id": episode.source_id}]
    utterances = (("user", episode.question), ("assistant", episode.answer))
    return [
        {**common, "role": role, "text": text, "id": f"{episode.turn_id}:{role}"} for role, text in utterances if text
    ]
