"""Trace: how episodes follow each other, as a graph in Ladybug.

``(Session)-[:CONTAINS]->(Episode)-[:NEXT]->(Episode)-[:MENTIONS]->(Concept)``. A session and a concept belong to one
tenant: two tenants that name a session alike have two sessions. Of the text the graph holds the concepts' names alone.
Each batch is one transaction, synced to disk when it commits.
"""

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import ladybug
from msgspec import Struct

from agents.memory.faults import opening, using
from agents.memory.record import key
from schemas.episode import Episode

FILE = "trace.lbug"
MAX_BYTES = 2**36
"""Address space that the store reserves; its own default, 8 TiB, is refused in small containers."""

_SCHEMA = (
    "CREATE NODE TABLE IF NOT EXISTS Session(id STRING PRIMARY KEY, session_id STRING, tenant STRING)",
    "CREATE NODE TABLE IF NOT EXISTS Episode(id STRING PRIMARY KEY, episode_id STRING, turn_id STRING, "
    "tenant STRING, created_at DOUBLE)",
    "CREATE REL TABLE IF NOT EXISTS CONTAINS(FROM Session TO Episode)",
    "CREATE REL TABLE IF NOT EXISTS NEXT(FROM Episode TO Episode)",
    "CREATE NODE TABLE IF NOT EXISTS Concept(id STRING PRIMARY KEY, name STRING, tenant STRING)",
    "CREATE REL TABLE IF NOT EXISTS MENTIONS(FROM Episode TO Concept)",
)
_STORE = """
    MERGE (s:Session {id: $session}) ON CREATE SET s.session_id = $session_id, s.tenant = $tenant
    MERGE (e:Episode {id: $episode})
      ON CREATE SET e.episode_id = $episode_id, e.turn_id = $turn_id, e.tenant = $tenant, e.created_at = $at
    MERGE (s)-[:CONTAINS]->(e)
"""
_BEFORE = """
    MATCH (:Session {id: $session})-[:CONTAINS]->(e:Episode)
    WHERE e.created_at < $at OR (e.created_at = $at AND e.id < $episode)
    RETURN e.id ORDER BY e.created_at DESC, e.id DESC LIMIT 1
"""
_AFTER = """
    MATCH (:Session {id: $session})-[:CONTAINS]->(e:Episode)
    WHERE e.created_at > $at OR (e.created_at = $at AND e.id > $episode)
    RETURN e.id ORDER BY e.created_at, e.id LIMIT 1
"""
_ORDER = """
    MATCH (:Session {id: $session})-[:CONTAINS]->(e:Episode) RETURN e.id ORDER BY e.created_at, e.id
"""
_TURNS = """
    MATCH (:Session {id: $session})-[:CONTAINS]->(e:Episode)
    RETURN e.episode_id, e.turn_id ORDER BY e.created_at, e.id
"""
_REMOVE_EPISODES = "MATCH (:Session {id: $session})-[:CONTAINS]->(e:Episode) DETACH DELETE e"
_REMOVE_SESSION = "MATCH (s:Session {id: $session}) DETACH DELETE s"
_MENTION = """
    MATCH (e:Episode {id: $episode})
    MERGE (c:Concept {id: $concept}) ON CREATE SET c.name = $name, c.tenant = $tenant
    MERGE (e)-[:MENTIONS]->(c)
"""
_CONCEPTS = "MATCH (:Episode {id: $episode, tenant: $tenant})-[:MENTIONS]->(c:Concept) RETURN c.name ORDER BY c.name"
_MENTIONED = """
    MATCH (:Session {id: $session})-[:CONTAINS]->(:Episode)-[:MENTIONS]->(c:Concept) RETURN DISTINCT c.id
"""
_UNMENTIONED = """
    MATCH (c:Concept {id: $concept}) WHERE NOT EXISTS { MATCH (:Episode)-[:MENTIONS]->(c) } DETACH DELETE c
"""
_KEYS = "MATCH (e:Episode) RETURN e.id"
_UNLINK = "MATCH (:Episode {id: $left})-[n:NEXT]->(:Episode {id: $right}) DELETE n"
_LINK = "MATCH (a:Episode {id: $left}), (b:Episode {id: $right}) MERGE (a)-[:NEXT]->(b)"
_PREVIOUS = "MATCH (p:Episode)-[:NEXT]->(:Episode {id: $episode, tenant: $tenant}) RETURN p.episode_id"
_FOLLOWING = "MATCH (:Episode {id: $episode, tenant: $tenant})-[:NEXT]->(f:Episode) RETURN f.episode_id"


class Neighbours(Struct, frozen=True, kw_only=True):
    """The episode ids before and after one in its session; None at either end."""

    previous: str | None = None
    following: str | None = None


class Member(Struct, frozen=True, kw_only=True):
    """An episode of a session."""

    episode_id: str
    turn_id: str


class Trace:
    """One graph database file. Calls block; one at a time."""

    def __init__(self, database: ladybug.Database) -> None:
        self._database = database
        self._connection = ladybug.Connection(database)

    @classmethod
    def open(cls, directory: Path, *, buffer: int) -> "Trace":
        """Open the graph in ``directory``, or create it; ``buffer`` bytes may be held in memory.

        Raises:
            BrokenStore: the files cannot be read.
        """
        directory.mkdir(parents=True, exist_ok=True)
        with opening("trace"):
            trace = cls(
                ladybug.Database(directory / FILE, buffer_pool_size=buffer, max_num_threads=1, max_db_size=MAX_BYTES)
            )
            for statement in _SCHEMA:
                trace._rows(statement)
        return trace

    def upsert(self, episodes: Sequence[Episode]) -> None:
        """Store the episodes and link each between its neighbours in time; all of them or none.

        The order of arrival does not matter, and storing an episode again changes nothing.

        Raises:
            Unavailable: the store failed; nothing of the batch is stored.
        """
        with using("trace"):
            self._rows("BEGIN TRANSACTION")
            try:
                for episode in episodes:
                    self._insert(episode)
                self._rows("COMMIT")
            except BaseException:
                with suppress(RuntimeError):  # the store rolls back by itself after most errors
                    self._rows("ROLLBACK")
                raise

    def neighbours(self, episode_id: str, *, tenant: str) -> Neighbours:
        """Who comes before and after the tenant's episode in its session.

        Raises:
            Unavailable: the store failed.
        """
        where = {"episode": key(tenant, "episode", episode_id), "tenant": tenant}
        with using("trace"):
            return Neighbours(previous=self._first(_PREVIOUS, **where), following=self._first(_FOLLOWING, **where))

    def order(self, session_id: str, *, tenant: str) -> list[str]:
        """The keys of a session's episodes in time.

        Raises:
            Unavailable: the store failed.
        """
        with using("trace"):
            return [str(row[0]) for row in self._rows(_ORDER, session=key(tenant, "session", session_id))]

    def turns(self, session_id: str, *, tenant: str) -> list[Member]:
        """A session's episodes in time.

        Raises:
            Unavailable: the store failed.
        """
        with using("trace"):
            rows = self._rows(_TURNS, session=key(tenant, "session", session_id))
            return [Member(episode_id=str(row[0]), turn_id=str(row[1])) for row in rows]

    def remove_session(self, session_id: str, *, tenant: str) -> None:
        """Delete a session with its episodes, their edges, and concepts that nobody mentions any more.

        Raises:
            Unavailable: the store failed.
        """
        with using("trace"):
            where = {"session": key(tenant, "session", session_id)}
            mentioned = [str(row[0]) for row in self._rows(_MENTIONED, **where)]
            self._rows(_REMOVE_EPISODES, **where)
            self._rows(_REMOVE_SESSION, **where)
            for concept in mentioned:
                self._rows(_UNMENTIONED, concept=concept)

    def concepts(self, episode_id: str, *, tenant: str) -> list[str]:
        """What the tenant's episode mentions, in the order of the alphabet.

        Raises:
            Unavailable: the store failed.
        """
        where = {"episode": key(tenant, "episode", episode_id), "tenant": tenant}
        with using("trace"):
            return [str(row[0]) for row in self._rows(_CONCEPTS, **where)]

    def keys(self) -> set[str]:
        """The keys of all episodes.

        Raises:
            Unavailable: the store failed.
        """
        with using("trace"):
            return {str(row[0]) for row in self._rows(_KEYS)}

    def count(self) -> int:
        """Episodes stored.

        Raises:
            Unavailable: the store failed.
        """
        with using("trace"):
            return int(self._rows("MATCH (e:Episode) RETURN count(*)")[0][0])

    def close(self) -> None:
        """Write everything into the database file and release it."""
        with using("trace"):
            self._connection.close()
            self._database.close()

    def _insert(self, episode: Episode) -> None:
        session = key(episode.tenant, "session", episode.session_id)
        node = key(episode.tenant, "episode", episode.episode_id)
        self._rows(
            _STORE,
            session=session,
            session_id=episode.session_id,
            episode=node,
            episode_id=episode.episode_id,
            turn_id=episode.turn_id,
            tenant=episode.tenant,
            at=episode.created_at,
        )
        for name in episode.concepts:
            concept = key(episode.tenant, "concept", name)
            self._rows(_MENTION, episode=node, concept=concept, name=name, tenant=episode.tenant)
        before = self._first(_BEFORE, session=session, episode=node, at=episode.created_at)
        after = self._first(_AFTER, session=session, episode=node, at=episode.created_at)
        if before and after:
            self._rows(_UNLINK, left=before, right=after)
        if before:
            self._rows(_LINK, left=before, right=node)
        if after:
            self._rows(_LINK, left=node, right=after)

    def _first(self, query: str, **values: Any) -> str | None:
        rows = self._rows(query, **values)
        return str(rows[0][0]) if rows else None

    def _rows(self, query: str, **values: Any) -> list[Any]:
        result = self._connection.execute(query, values)
        try:
            return list(result.get_all())
        finally:
            result.close()
