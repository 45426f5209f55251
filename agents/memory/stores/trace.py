"""Trace: the relations between episodes, as a graph.

Nodes: ``Session``, ``Episode``, ``Concept``; each belongs to one tenant and one of its users, so two users that use one
session id have two sessions, and no edge leads from one owner to another. The only text in the graph is the names of
the concepts. Edges::

    (Session)-[CONTAINS]->(Episode)      (Episode)-[NEXT]->(Episode)        in time, within the session
    (Episode)-[MENTIONS]->(Concept)      (Episode)-[CAUSED]->(Episode)      the first was in the second's prompt
    (Episode)-[SUPERSEDES]->(Episode)    (Episode)-[SUMMARISES]->(Episode)

Time has two axes. What an episode says holds from its ``created_at``; the memory knows it from its ``recorded_at``.
``SUPERSEDES`` carries both times for the moment from which the older episode no longer holds, and deletes nothing.

An edge may be stored before one of its ends: the missing episode is then a node without ``episode_id``, which queries
ignore until the episode itself is stored. So the graph depends on the set of episodes and not on their order.

Each statement has one MERGE: with several, Ladybug 0.22 loses rows of the UNWIND.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import pairwise
from math import inf
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from agents.memory.episodes import owner_of, session_key, store_key
from schemas.episode import Episode

if TYPE_CHECKING:
    from agents.memory.stores.protocols import Graph, Run

VERSION = 3
"""The graph's schema version. A store with another one is made again from the record."""

FOREVER = 1e12
"""A Unix time later than any other, in place of infinity, which a server need not accept."""

LABELS = ("Session", "Episode", "Concept")

_SESSIONS = """
    UNWIND $rows AS row MERGE (s:Session {id: row.session})
    SET s.session_id = row.session_id, s.tenant = row.tenant, s.user = row.user
"""
_EPISODES = """
    UNWIND $rows AS row MERGE (e:Episode {id: row.episode})
    SET e.episode_id = row.episode_id, e.turn_id = row.turn_id, e.tenant = row.tenant, e.user = row.user,
        e.created_at = row.created_at, e.recorded_at = row.recorded_at
"""
_CONTAINS = """
    UNWIND $rows AS row MATCH (s:Session {id: row.session}), (e:Episode {id: row.episode}) MERGE (s)-[:CONTAINS]->(e)
"""
_CONCEPTS = """
    UNWIND $rows AS row MERGE (c:Concept {id: row.concept})
    SET c.name = row.name, c.tenant = row.tenant, c.user = row.user
"""
_MENTIONS = """
    UNWIND $rows AS row MATCH (e:Episode {id: row.episode}), (c:Concept {id: row.concept}) MERGE (e)-[:MENTIONS]->(c)
"""
_ENDS = "UNWIND $rows AS row MERGE (e:Episode {id: row.episode})"
_LINK = "UNWIND $rows AS row MATCH (a:Episode {{id: row.left}}), (b:Episode {{id: row.right}}) MERGE (a)-[:{kind}]->(b)"
_UNLINK = "UNWIND $rows AS row MATCH (:Episode {id: row.left})-[n:NEXT]->(:Episode {id: row.right}) DELETE n"
_ORDERS = """
    MATCH (s:Session)-[:CONTAINS]->(e:Episode) WHERE s.id IN $sessions
    RETURN s.id, e.id ORDER BY e.created_at, e.id
"""
_KNOWN = "MATCH (e:Episode) WHERE e.id IN $names AND e.episode_id IS NOT NULL RETURN e.id"
_TURNS = """
    MATCH (:Session {id: $session})-[:CONTAINS]->(e:Episode)
    RETURN e.episode_id, e.turn_id ORDER BY e.created_at, e.id
"""
_MENTIONED = """
    MATCH (:Session {id: $session})-[:CONTAINS]->(:Episode)-[:MENTIONS]->(c:Concept) RETURN DISTINCT c.id
"""
_MENTIONED_BY = "MATCH (:Episode {id: $episode})-[:MENTIONS]->(c:Concept) RETURN DISTINCT c.id"
_REMOVE_EPISODE = "MATCH (e:Episode {id: $episode}) DETACH DELETE e"
_REMOVE_EPISODES = "MATCH (:Session {id: $session})-[:CONTAINS]->(e:Episode) DETACH DELETE e"
_REMOVE_SESSION = "MATCH (s:Session {id: $session}) DETACH DELETE s"
_REMOVE_TENANT = "MATCH (n:{label} {{tenant: $tenant}}) WHERE $everybody OR n.user = $user DETACH DELETE n"
_UNMENTIONED = """
    UNWIND $names AS name MATCH (c:Concept {id: name}) WHERE NOT EXISTS { MATCH (:Episode)-[:MENTIONS]->(c) }
    DETACH DELETE c
"""
_CONCEPTS_OF = "MATCH (:Episode {id: $episode, tenant: $tenant})-[:MENTIONS]->(c:Concept) RETURN c.name ORDER BY c.name"
_PREVIOUS = "MATCH (p:Episode)-[:NEXT]->(:Episode {id: $episode, tenant: $tenant}) RETURN p.episode_id"
_FOLLOWING = "MATCH (:Episode {id: $episode, tenant: $tenant})-[:NEXT]->(f:Episode) RETURN f.episode_id"
_KEYS = "MATCH (e:Episode) WHERE e.episode_id IS NOT NULL RETURN e.id"
_KEYS_OF = """
    MATCH (e:Episode {tenant: $tenant}) WHERE e.episode_id IS NOT NULL AND ($everybody OR e.user = $user) RETURN e.id
"""
_SESSIONS_OF = "MATCH (s:Session {tenant: $tenant, user: $user}) RETURN s.session_id ORDER BY s.session_id"
_COUNT = "MATCH (e:Episode) WHERE e.episode_id IS NOT NULL RETURN count(*)"
_EDGES = """
    MATCH (a:Episode {{tenant: $tenant}})-[:{kind}]->(b:Episode {{tenant: $tenant}})
    WHERE $everybody OR a.user = $user RETURN a.episode_id, b.episode_id
    ORDER BY a.episode_id, b.episode_id
"""
_SUPERSEDE = """
    UNWIND $rows AS row MATCH (a:Episode {id: row.left}), (b:Episode {id: row.right}) MERGE (a)-[s:SUPERSEDES]->(b)
    SET s.valid_from = a.created_at
"""
_LEARNT = """
    UNWIND $rows AS row MATCH (a:Episode {id: row.left})-[s:SUPERSEDES]->(b:Episode {id: row.right})
    SET s.recorded_at = CASE WHEN a.recorded_at > b.recorded_at THEN a.recorded_at ELSE b.recorded_at END
"""
_SUPERSEDED = """
    MATCH (a:Episode)-[s:SUPERSEDES]->(b:Episode) WHERE b.id IN $names
    AND a.tenant = b.tenant AND a.user = b.user AND s.valid_from <= $as_of AND s.recorded_at <= $known
    RETURN b.id, a.id ORDER BY a.created_at, a.id
"""
_SUMMARIES = """
    MATCH (a:Episode)-[:SUMMARISES]->(b:Episode) WHERE b.id IN $names AND a.episode_id IS NOT NULL
    RETURN a.episode_id, a.id, b.id ORDER BY a.episode_id, b.id
"""
_SUMMARIES_OF_SESSION = """
    MATCH (:Session {id: $session})-[:CONTAINS]->(b:Episode)<-[:SUMMARISES]-(a:Episode)<-[:CONTAINS]-(s:Session)
    WHERE a.episode_id IS NOT NULL RETURN DISTINCT s.session_id ORDER BY s.session_id
"""
_PARTS_OF_SESSION = """
    MATCH (:Session {id: $session})-[:CONTAINS]->(:Episode)-[:SUMMARISES]->(b:Episode) RETURN DISTINCT b.id
"""
_NODES = """
    UNWIND $names AS name MATCH (s:Session)-[:CONTAINS]->(e:Episode {id: name})
    RETURN e.id, s.id, s.session_id, e.episode_id, e.turn_id, e.tenant, e.user, e.created_at, e.recorded_at
"""
_ENDS_OF = {
    "concepts": "UNWIND $names AS name MATCH (:Episode {id: name})-[:MENTIONS]->(c:Concept) RETURN name, c.name",
    "causes": "UNWIND $names AS name MATCH (a:Episode)-[:CAUSED]->(:Episode {id: name}) RETURN name, a.id",
    "parts": "UNWIND $names AS name MATCH (:Episode {id: name})-[:SUMMARISES]->(b:Episode) RETURN name, b.id",
}
_NEXT_OF = "UNWIND $names AS name MATCH (:Episode {id: name})-[:NEXT]->(f:Episode) RETURN name, f.id"
KINDS = ("NEXT", "CAUSED", "SUPERSEDES", "SUMMARISES")
"""Edges between episodes."""

RELATIONS = ("CONTAINS", "MENTIONS", *KINDS)
"""All edges."""


class Neighbours(Struct, frozen=True, kw_only=True):
    """The episode ids before and after one in its session; None at either end."""

    previous: str | None = None
    following: str | None = None


class SessionEpisode(Struct, frozen=True, kw_only=True):
    """An episode of a session."""

    episode_id: str
    turn_id: str


class Trace:
    """Reads and writes the graph. Every method raises ``Unavailable`` when the store fails or does not answer.

    ``names`` and the keys that methods return are store keys (:func:`agents.memory.episodes.store_key`).
    """

    def __init__(self, graph: "Graph") -> None:
        self._graph = graph

    async def upsert(
        self, episodes: Sequence[Episode], *, recorded_at: Mapping[str, float] | None = None
    ) -> list[list[str]]:
        """Store the episodes and link them in one transaction. Returns each session's episode keys in time order.

        The order of arrival does not matter, and storing an episode again changes nothing. ``recorded_at`` is the
        Unix time, by episode id, at which the record got each; an episode that is not in it counts as recorded when it
        was created.
        """
        nodes = [
            _node(episode, (recorded_at or {}).get(episode.episode_id, episode.created_at)) for episode in episodes
        ]
        sessions = {row["session"]: row for row in nodes}
        mentions = [row for episode in episodes for row in _mentions(episode)]
        cause_edges = [
            _edge(episode.tenant, cause, episode.episode_id)
            for episode in episodes
            for cause in {*episode.recalled_ids, *episode.history_ids}
        ]
        summary_edges = [
            _edge(episode.tenant, episode.episode_id, part) for episode in episodes for part in set(episode.summarises)
        ]

        names = {row["episode"] for row in nodes}
        orders: list[list[str]] = []

        async def work(run: "Run") -> None:
            new = names - {str(row[0]) for row in await run(_KNOWN, names=sorted(names))}
            await _run_for_rows(run, _SESSIONS, sessions.values())
            await _run_for_rows(run, _EPISODES, {row["episode"]: row for row in nodes}.values())
            await _run_for_rows(run, _CONTAINS, nodes)
            await _run_for_rows(run, _CONCEPTS, {row["concept"]: row for row in mentions}.values())
            await _run_for_rows(run, _MENTIONS, mentions)
            await _run_for_rows(
                run, _ENDS, [{"episode": name} for name in sorted(_ends([*cause_edges, *summary_edges]))]
            )
            await _run_for_rows(run, _LINK.format(kind="CAUSED"), cause_edges)
            await _run_for_rows(run, _LINK.format(kind="SUMMARISES"), summary_edges)
            orders[:] = await _read_orders(run, sessions)
            apart, together = link_changes(orders, new)
            await _run_for_rows(run, _UNLINK, apart)
            await _run_for_rows(run, _LINK.format(kind="NEXT"), together)

        await self._graph.write(work)
        return orders

    async def neighbours(self, episode_id: str, *, tenant: str) -> Neighbours:
        """Which episodes come before and after the tenant's episode in its session."""
        where = {"episode": store_key(tenant, "episode", episode_id), "tenant": tenant}
        previous = await self._graph.read(_PREVIOUS, **where)
        following = await self._graph.read(_FOLLOWING, **where)
        return Neighbours(previous=_first_value(previous), following=_first_value(following))

    async def sessions(self, *, tenant: str, user: str) -> list[str]:
        """The ids of a user's sessions."""
        return [str(row[0]) for row in await self._graph.read(_SESSIONS_OF, tenant=tenant, user=user)]

    async def turns(self, session_id: str, *, tenant: str, user: str = "") -> list[SessionEpisode]:
        """A session's episodes in time order."""
        rows = await self._graph.read(_TURNS, session=session_key(tenant, user, session_id))
        return [SessionEpisode(episode_id=str(episode), turn_id=str(turn)) for episode, turn in rows]

    async def remove_session(self, session_id: str, *, tenant: str, user: str = "") -> None:
        """Delete a session with its episodes, their edges, and the concepts that no episode mentions any more."""
        session = session_key(tenant, user, session_id)

        async def work(run: "Run") -> None:
            concepts = [row[0] for row in await run(_MENTIONED, session=session)]
            await run(_REMOVE_EPISODES, session=session)
            await run(_REMOVE_SESSION, session=session)
            if concepts:
                await run(_UNMENTIONED, names=concepts)

        await self._graph.write(work)

    async def remove_episode(self, episode_id: str, session_id: str, *, tenant: str, user: str = "") -> None:
        """Delete an episode with its edges, and link the two that stood around it; a session without any other goes,
        too, and so do the concepts that no episode mentions any more."""
        session, episode = session_key(tenant, user, session_id), store_key(tenant, "episode", episode_id)

        async def work(run: "Run") -> None:
            orders = await _read_orders(run, [session])
            concepts = [row[0] for row in await run(_MENTIONED_BY, episode=episode)]
            await run(_REMOVE_EPISODE, episode=episode)
            across, _ = link_changes(orders, {episode})  # what adding it took apart
            await _run_for_rows(run, _LINK.format(kind="NEXT"), across)
            if not any(name != episode for order in orders for name in order):
                await run(_REMOVE_SESSION, session=session)
            if concepts:
                await run(_UNMENTIONED, names=concepts)

        await self._graph.write(work)

    async def remove_tenant(self, tenant: str, *, user: str | None = None) -> None:
        """Delete all that belongs to a tenant, or to one of its users."""

        async def work(run: "Run") -> None:
            for label in LABELS:
                await run(_REMOVE_TENANT.format(label=label), tenant=tenant, **_whose(user))

        await self._graph.write(work)

    async def concepts(self, episode_id: str, *, tenant: str) -> list[str]:
        """Names of the concepts that the tenant's episode mentions, sorted."""
        where = {"episode": store_key(tenant, "episode", episode_id), "tenant": tenant}
        return [str(row[0]) for row in await self._graph.read(_CONCEPTS_OF, **where)]

    async def supersede(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Link the keys of newer episodes with those of the older ones that they replace."""
        rows = [_pair(newer, older) for newer, older in sorted(set(pairs))]

        async def work(run: "Run") -> None:
            await _run_for_rows(run, _SUPERSEDE, rows)
            await _run_for_rows(run, _LEARNT, rows)

        if rows:
            await self._graph.write(work)

    async def find_superseded(self, names: Iterable[str], *, as_of: float = inf, known: float = inf) -> dict[str, str]:
        """Which of the episodes with these keys no longer hold: each one's key with that of the latest that replaced
        it.

        ``as_of``: only replacements that held at this Unix time; ``known``: only those recorded by this one.
        """
        last = {"as_of": min(as_of, FOREVER), "known": min(known, FOREVER)}
        rows = await self._graph.read(_SUPERSEDED, names=sorted(set(names)), **last)
        return {str(older): str(newer) for older, newer in rows}

    async def summaries(self, names: Iterable[str]) -> dict[tuple[str, str], list[str]]:
        """The summaries (episode id and key) of any of these episodes, each with the keys of the ones that it sums
        up."""
        parts_by_summary: dict[tuple[str, str], list[str]] = {}
        for summary, node, member in await self._graph.read(_SUMMARIES, names=sorted(names)):
            parts_by_summary.setdefault((str(summary), str(node)), []).append(str(member))
        return parts_by_summary

    async def summaries_of(self, session_id: str, *, tenant: str, user: str = "") -> list[str]:
        """Session ids of the summaries that sum up an episode of this session."""
        rows = await self._graph.read(_SUMMARIES_OF_SESSION, session=session_key(tenant, user, session_id))
        return [str(row[0]) for row in rows]

    async def parts_of(self, session_id: str, *, tenant: str, user: str = "") -> list[str]:
        """The keys of the episodes that a session's episodes sum up."""
        rows = await self._graph.read(_PARTS_OF_SESSION, session=session_key(tenant, user, session_id))
        return [str(row[0]) for row in rows]

    async def edges(self, *, tenant: str, user: str | None = None) -> dict[str, list[tuple[str, str]]]:
        """The edges between a tenant's episodes, or between one user's, by kind."""
        edges = {}
        for kind in KINDS:
            rows = await self._graph.read(_EDGES.format(kind=kind), tenant=tenant, **_whose(user))
            edges[kind] = [(str(left), str(right)) for left, right in rows]
        return edges

    async def nodes(self, names: Sequence[str]) -> dict[str, dict[str, Any]]:
        """What is kept of these episodes, by key, in the form of :func:`node_fields`; those of no session are left
        out."""
        fields = ("episode", "session", "session_id", "episode_id", "turn_id", "tenant", "user")
        times = ("created_at", "recorded_at")
        rows = await self._graph.read(_NODES, names=[*names])
        nodes: dict[str, dict[str, Any]] = {
            str(row[0]): dict(zip((*fields, *times), row, strict=True)) | {kind: set() for kind in _ENDS_OF}
            for row in rows
        }
        for kind, query in _ENDS_OF.items():
            for name, end in await self._graph.read(query, names=[*nodes]) if nodes else ():
                nodes[str(name)][kind].add(str(end))
        return nodes

    async def following(self, names: Sequence[str]) -> dict[str, set[str]]:
        """The keys of the episodes to which NEXT leads from these, by key; those without such an edge are left out."""
        following: dict[str, set[str]] = {}
        for name, end in await self._graph.read(_NEXT_OF, names=[*names]):
            following.setdefault(str(name), set()).add(str(end))
        return following

    async def keys(self, *, tenant: str | None = None, user: str | None = None) -> set[str]:
        """The keys of all episodes, of one tenant's, or of one of its users'."""
        if tenant is None:
            rows = await self._graph.read(_KEYS)
        else:
            rows = await self._graph.read(_KEYS_OF, tenant=tenant, **_whose(user))
        return {str(row[0]) for row in rows}

    async def count(self) -> int:
        """Episodes stored."""
        return int((await self._graph.read(_COUNT))[0][0])


def link_changes(
    orders: Iterable[Sequence[str]], new: Collection[str]
) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The NEXT links to delete and those to create when the keys ``new`` are added to the sessions' orders."""
    apart, together = [], []
    for order in orders:
        before = set(pairwise(name for name in order if name not in new))
        after = set(pairwise(order))
        apart += [_pair(*pair) for pair in sorted(before - after)]
        together += [_pair(*pair) for pair in sorted(after - before)]
    return apart, together


async def _read_orders(run: "Run", sessions: Iterable[str]) -> list[list[str]]:
    orders: dict[str, list[str]] = {}
    for session, episode in await run(_ORDERS, sessions=sorted(sessions)):
        orders.setdefault(str(session), []).append(str(episode))
    return list(orders.values())


async def _run_for_rows(run: "Run", statement: str, rows: Iterable[Mapping[str, Any]]) -> None:
    if batch := [dict(row) for row in rows]:
        await run(statement, rows=batch)


def _node(episode: Episode, recorded_at: float) -> dict[str, Any]:
    return {
        "session": session_key(episode.tenant, episode.user, episode.session_id),
        "session_id": episode.session_id,
        "episode": store_key(episode.tenant, "episode", episode.episode_id),
        "episode_id": episode.episode_id,
        "turn_id": episode.turn_id,
        "tenant": episode.tenant,
        "user": episode.user,
        "created_at": episode.created_at,
        "recorded_at": recorded_at,
    }


def node_fields(episode: Episode, recorded_at: float) -> dict[str, Any]:
    """What Trace keeps of an episode: of its node and session, its concepts' names, and the keys of the episodes that
    it was caused by and that it sums up."""
    causes = {*episode.recalled_ids, *episode.history_ids}
    return _node(episode, recorded_at) | {
        "concepts": frozenset(episode.concepts),
        "causes": frozenset(store_key(episode.tenant, "episode", name) for name in causes),
        "parts": frozenset(store_key(episode.tenant, "episode", name) for name in episode.summarises),
    }


def _mentions(episode: Episode) -> list[dict[str, str]]:
    node = store_key(episode.tenant, "episode", episode.episode_id)
    owner, whose = owner_of(episode), {"tenant": episode.tenant, "user": episode.user}
    return [
        {"episode": node, "concept": store_key(episode.tenant, "concept", f"{name}\n{owner}"), "name": name, **whose}
        for name in episode.concepts
    ]


def _whose(user: str | None) -> dict[str, Any]:
    """Values of a statement that is about one user, or about all (None). A null has no type in Ladybug's statements."""
    return {"everybody": user is None, "user": user or ""}


def _edge(tenant: str, left: str, right: str) -> dict[str, str]:
    return _pair(store_key(tenant, "episode", left), store_key(tenant, "episode", right))


def _pair(left: str, right: str) -> dict[str, str]:
    return {"left": left, "right": right}


def _ends(edges: Iterable[Mapping[str, str]]) -> set[str]:
    return {end for edge in edges for end in edge.values()}


def _first_value(rows: Sequence[Sequence[Any]]) -> str | None:
    return str(rows[0][0]) if rows else None
