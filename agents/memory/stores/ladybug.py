"""Trace embedded: a Ladybug database file on a thread of its own. A committed transaction is on disk."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import ladybug

from agents.memory.settings import MemorySettings
from agents.memory.stores.embedded import EmbeddedStore
from agents.memory.stores.errors import BrokenStore, translate_opening_errors, translate_store_errors
from agents.memory.stores.protocols import Rows, Run
from agents.memory.stores.trace import LABELS, RELATIONS, VERSION
from schemas.errors import Unavailable

FILE = "trace.lbug"
MAX_BYTES = 2**36
"""Bytes of address space that the store reserves; small containers refuse the library's default of 8 TiB."""

_SCHEMA = (
    "CREATE NODE TABLE Trace(id STRING PRIMARY KEY, version INT64)",
    "CREATE NODE TABLE Session(id STRING PRIMARY KEY, session_id STRING, tenant STRING, user STRING)",
    "CREATE NODE TABLE Episode(id STRING PRIMARY KEY, episode_id STRING, turn_id STRING, tenant STRING, user STRING, "
    "created_at DOUBLE, recorded_at DOUBLE)",
    "CREATE NODE TABLE Concept(id STRING PRIMARY KEY, name STRING, tenant STRING, user STRING)",
    "CREATE REL TABLE CONTAINS(FROM Session TO Episode)",
    "CREATE REL TABLE NEXT(FROM Episode TO Episode)",
    "CREATE REL TABLE MENTIONS(FROM Episode TO Concept)",
    "CREATE REL TABLE CAUSED(FROM Episode TO Episode)",
    "CREATE REL TABLE SUMMARISES(FROM Episode TO Episode)",
    "CREATE REL TABLE SUPERSEDES(FROM Episode TO Episode, valid_from DOUBLE, recorded_at DOUBLE)",
    f"CREATE (:Trace {{id: 'trace', version: {VERSION}}})",
)


_TABLES = {"Trace", *LABELS, *RELATIONS}


_MORE_MEMORY = 4
"""How many times its memory the graph may take to open: what it could not move into its file before is moved then."""


class Database:
    """One database file. Calls block, and must not overlap."""

    def __init__(self, file: Path, *, buffer: int) -> None:
        self._database = ladybug.Database(file, buffer_pool_size=buffer, max_num_threads=1, max_db_size=MAX_BYTES)
        self._connection = ladybug.Connection(self._database)

    @classmethod
    def open(cls, directory: Path, *, buffer: int) -> "Database":
        """Open the graph in ``directory``; ``buffer`` bytes may be held in memory.

        Raises:
            BrokenStore: the files cannot be read, another version made them, or whoever made them died over it.
        """
        if not (directory / FILE).is_file():
            raise BrokenStore(f"the trace in {directory} has no file {FILE}.")
        try:
            return cls._open(directory, buffer=buffer)
        except BrokenStore:
            return cls._open(directory, buffer=_MORE_MEMORY * buffer)

    @classmethod
    def _open(cls, directory: Path, *, buffer: int) -> "Database":
        with translate_opening_errors("trace"):
            database = cls(directory / FILE, buffer=buffer)
            try:
                database._refuse_half_made()
            except BaseException:
                with suppress(Unavailable):  # why it is not used is said already
                    database.close()
                raise
        return database

    @classmethod
    def create(cls, directory: Path, *, buffer: int) -> "Database":
        """Make ``directory`` with an empty graph in it, which counts once its version is written: that is done last.

        Raises:
            BrokenStore: that failed.
        """
        with translate_opening_errors("trace"):
            directory.mkdir(parents=True, exist_ok=True)
            database = cls(directory / FILE, buffer=buffer)
            try:
                for statement in _SCHEMA:
                    database.rows(statement)
            except BaseException:
                with suppress(Unavailable):  # why it failed is said already
                    database.close()
                raise
        return database

    def _refuse_half_made(self) -> None:
        lacking = _TABLES - {str(row[0]) for row in self.rows("CALL show_tables() RETURN name")}
        if lacking:
            raise BrokenStore(f"the trace is not whole: it has no table {', '.join(sorted(lacking))}.")
        version = self.rows("MATCH (t:Trace) RETURN t.version")
        if version != [[VERSION]]:
            raise BrokenStore(f"the trace has schema version {version}, this program has {VERSION}.")

    def rows(self, query: str, **values: Any) -> Rows:
        """Run one statement; return its rows.

        Raises:
            Unavailable: the store failed.
        """
        with translate_store_errors("trace"):
            result = self._connection.execute(query, values)
            try:
                return [list(row) for row in result.get_all()]
            finally:
                result.close()

    def close(self) -> None:
        """Write everything into the database file and release it."""
        with translate_store_errors("trace"):
            self._connection.close()
            self._database.close()


class LadybugGraph:
    """The graph in ``data_dir/trace``; see :class:`agents.memory.stores.protocols.Graph`."""

    name = "trace"
    away = ""

    def __init__(self, settings: MemorySettings) -> None:
        self.store = EmbeddedStore(
            self.name,
            settings.data_dir / "trace",
            opener=partial(Database.open, buffer=settings.graph_buffer),
            creator=partial(Database.create, buffer=settings.graph_buffer),
        )
        self.load = self.store.load
        self.renew = self.store.renew
        self.close = self.store.close
        self._transaction_lock = anyio.Lock()  # one connection, and a transaction is a state of the connection

    @property
    def stuck(self) -> str:
        """See :class:`agents.memory.stores.protocols.Store`."""
        return self.store.stuck

    async def read(self, query: str, **values: Any) -> Rows:
        """Run one query; return its rows."""
        async with self._transaction_lock:
            return await self.store.run(lambda database: database.rows(query, **values))

    async def write(self, work: Callable[[Run], Awaitable[None]]) -> None:
        """Run ``work`` as one transaction."""
        async with self._transaction_lock:
            await self._run("BEGIN TRANSACTION")
            try:
                await work(self._run)
                await self.store.write(lambda database: database.rows("COMMIT"))
            except BaseException:
                with anyio.CancelScope(shield=True), suppress(Unavailable):  # most errors roll back already
                    await self._run("ROLLBACK")
                raise

    async def _run(self, query: str, **values: Any) -> Rows:
        return await self.store.run(lambda database: database.rows(query, **values))
