"""Protocols of Atlas and Trace. Each has two implementations, and one contract test suite runs over both.

Atlas is a store of points (:class:`AtlasStore`: qdrant-edge in :mod:`.edge`, a Qdrant server in :mod:`.qdrant`). Trace
is Cypher in :mod:`.trace` over a :class:`Graph` (Ladybug in :mod:`.ladybug`, Neo4j in :mod:`.neo4j`).
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from agents.memory.ranking import Match
from agents.memory.stores.stored import Lookup, StoredPoint, Windows
from schemas.episode import Episode

Rows = list[list[Any]]
"""A query's result: for each row a list of values."""


class Store(Protocol):
    """How a store is opened, emptied and closed."""

    @property
    def name(self) -> str:
        """``atlas`` or ``trace``: in metrics, logs and errors."""
        ...

    @property
    def away(self) -> str:
        """Why its server could not be used at the last call, with the setting to look at; empty when it could."""
        ...

    @property
    def stuck(self) -> str:
        """Why it takes nothing more until this process starts again; empty while that is not needed."""
        ...

    async def load(self) -> bool:
        """Open the store; return False when there is none that can be used, and it must be made from the record.

        Raises:
            SetupError: other settings made it, or its server does not answer; the message names the setting and the
                remedy.
        """
        ...

    async def renew(self) -> None:
        """Begin with an empty store."""
        ...

    async def close(self) -> None:
        """Release what is held."""
        ...


class AtlasStore(Store, Protocol):
    """Vectors and words of episodes. Every method raises ``Unavailable`` when the store fails or does not answer.

    ``names`` are store keys (:func:`agents.memory.episodes.store_key`).
    """

    async def place(self, episodes: Sequence[Episode], windows: Windows) -> None:
        """Store the episodes, and blend the vectors of the other points in ``windows`` again; durable on return."""
        ...

    async def search(self, lookup: Lookup) -> list[Match]:
        """The owner's episodes that the vector or the words find, each with both scores; in no order."""
        ...

    async def read(self, names: Sequence[str]) -> dict[str, Match]:
        """The episodes of these points, by key, without scores; keys without a point are left out."""
        ...

    async def contents(self, names: Sequence[str]) -> dict[str, StoredPoint]:
        """All that is kept of these points, by key; keys without a point are left out."""
        ...

    async def mark_summarised(self, names: Sequence[str], summary: str) -> None:
        """Mark these points as summed up in the episode ``summary``; keys without a point are ignored."""
        ...

    async def remove(self, names: Sequence[str], windows: Windows) -> None:
        """Delete the points, and blend the vectors of those in ``windows`` again."""
        ...

    async def find_transcript(self, transcript: str, *, tenant: str, user: str) -> list[tuple[str, str]]:
        """The user's episodes with which a conversation had this transcript: the ids of session and episode."""
        ...

    async def keys(self, *, tenant: str | None = None, user: str | None = None) -> set[str]:
        """The keys of all points, of one tenant's, or of one of its users'."""
        ...

    async def count(self) -> int:
        """Episodes stored."""
        ...


class Run(Protocol):
    """Runs a statement within a transaction."""

    async def __call__(self, query: str, **values: Any) -> Rows:
        """Run the statement; return its rows."""
        ...


class Graph(Store, Protocol):
    """A property graph that answers Cypher. Both methods raise ``Unavailable`` when it fails or does not
    answer."""

    async def read(self, query: str, **values: Any) -> Rows:
        """Run one query; return its rows."""
        ...

    async def write(self, work: Callable[[Run], Awaitable[None]]) -> None:
        """Run ``work`` as one transaction: all of it or nothing. ``work`` may be called again after a conflict."""
        ...
