"""What a store must do to serve as Atlas or as Trace. Two implementations each; one contract suite runs over both.

Atlas is a store of points (:class:`AtlasStore`: qdrant-edge in :mod:`.edge`, a Qdrant server in :mod:`.qdrant`). Trace
is Cypher in :mod:`.trace` over a :class:`Graph` (Ladybug in :mod:`.ladybug`, Neo4j in :mod:`.neo4j`).
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from agents.memory.ranking import Match
from agents.memory.stores.points import Lookup, Windows
from schemas.episode import Episode

Rows = list[list[Any]]
"""A query's answer: a list of values a row."""


class Store(Protocol):
    """A store's life."""

    @property
    def name(self) -> str:
        """``atlas`` or ``trace``: in metrics, logs and errors."""
        ...

    async def load(self) -> bool:
        """Open what is there. Whether there was something that can be used.

        Raises:
            SetupError: other settings made it, or its server does not answer; names the setting and the mend.
        """
        ...

    async def renew(self) -> None:
        """Begin empty."""
        ...

    async def close(self) -> None:
        """Release what is held."""
        ...


class AtlasStore(Store, Protocol):
    """Vectors and words of episodes. Every method raises ``Unavailable`` when the store fails or is away."""

    async def place(self, episodes: Sequence[Episode], windows: Windows) -> None:
        """Store the episodes and renew those that ``windows`` names beside them; durable when it returns."""
        ...

    async def search(self, lookup: Lookup) -> list[Match]:
        """The tenant's episodes that the vector or the words bring, each with both scores; in no order."""
        ...

    async def read(self, names: Sequence[str]) -> dict[str, Match]:
        """The episodes of these points, by key, without scores; keys without a point are left out."""
        ...

    async def mark_summarised(self, names: Sequence[str], summary: str) -> None:
        """Mark these points as summed up in the episode ``summary``; keys without a point are ignored."""
        ...

    async def remove(self, names: Sequence[str], windows: Windows) -> None:
        """Delete the points and renew those that ``windows`` names."""
        ...

    async def keys(self, *, tenant: str | None = None) -> set[str]:
        """The keys of all points, or of one tenant's."""
        ...

    async def count(self) -> int:
        """Episodes stored."""
        ...


class Run(Protocol):
    """A statement within a transaction."""

    async def __call__(self, query: str, **values: Any) -> Rows:
        """Its rows."""
        ...


class Graph(Store, Protocol):
    """A property graph that answers Cypher. Both methods raise ``Unavailable`` when it fails or is away."""

    async def read(self, query: str, **values: Any) -> Rows:
        """The rows of one query."""
        ...

    async def write(self, work: Callable[[Run], Awaitable[None]]) -> None:
        """``work`` as one transaction: all of it or nothing. It may be called again after a conflict."""
        ...
