"""Trace on a server: Neo4j through its asynchronous driver, or any other server that speaks Bolt and Cypher."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import neo4j
from neo4j.exceptions import (
    AuthError,
    ClientError,
    ConfigurationError,
    DriverError,
    Neo4jError,
    ServiceUnavailable,
    SessionExpired,
    TransientError,
)

from agents.memory.settings import MemorySettings
from agents.memory.stores.errors import Reach, StoreAway, away_error, one_line, setting_error
from agents.memory.stores.protocols import Rows, Run
from agents.memory.stores.trace import LABELS, VERSION
from bus import metrics
from schemas.errors import SetupError, Unavailable

DELETE_BATCH = 5000
"""Nodes that one transaction deletes while a graph is emptied."""

RENEWING = 0
"""The version of a graph that is not whole: one that is being emptied, or one on a server that lost its data. The next
start makes it again from the record."""

_CONSTRAINT = "CREATE CONSTRAINT kiki_{name} IF NOT EXISTS FOR (n:{label}) REQUIRE n.id IS UNIQUE"
_MARK = "MERGE (t:Trace {id: 'trace'}) ON CREATE SET t.version = $version"

_SECURITY = "Neo.ClientError.Security."
"""How the server's codes begin that are about the account."""

_READ_ONLY = (
    "Neo.ClientError.General.ForbiddenOnReadOnlyDatabase",
    "Neo.ClientError.General.WriteOnReadOnlyAccessDatabase",
    "Neo.ClientError.Statement.AccessMode",
    "Neo.ClientError.Cluster.NotALeader",
)
_NO_DATABASE = "Neo.ClientError.Database."
"""How the codes begin of a database that is not there, or not started."""

_TOO_LARGE = "OutOfMemory"
"""In the codes of a transaction that is too large for the server: another try does not help it."""

_DISK_REFUSES = ("no space left", "disk is full", "read-only file system", "read only")
"""What a server says that cannot write, with the code of any other fault of its own."""

_setting_error = partial(setting_error, mend='set agents.memory.trace = "ladybug"')


class Neo4jGraph:
    """The graph in one database of a server; see :class:`agents.memory.stores.protocols.Graph`."""

    name = "trace"
    stuck = ""

    def __init__(self, settings: MemorySettings) -> None:
        self._settings = settings
        self._driver: neo4j.AsyncDriver | None = None
        self._reach = Reach(self.name)

    @property
    def away(self) -> str:
        """See :class:`agents.memory.stores.protocols.Store`."""
        return self._reach.away

    async def load(self) -> bool:
        """Connect to the server; return whether the database holds a graph of this version, with its constraints.

        Constraints that whoever made it did not come to are made.

        Raises:
            SetupError: no server answers, it refuses the account, or the database holds nodes of another program.
        """
        settings = self._settings
        await self.close()
        try:
            self._driver = neo4j.AsyncGraphDatabase.driver(
                settings.neo4j_uri,
                auth=(settings.neo4j_user, settings.neo4j_password),
                connection_timeout=settings.store_timeout,
                connection_acquisition_timeout=settings.store_timeout,
                max_transaction_retry_time=settings.store_timeout,
                notifications_min_severity="OFF",
            )
            await self._driver.verify_connectivity()
            version = await self._rows("OPTIONAL MATCH (t:Trace {id: 'trace'}) RETURN t.version")
        except (ConfigurationError, ValueError) as error:
            raise _setting_error(
                "neo4j_uri", f"'{settings.neo4j_uri}' is no Bolt address ({one_line(error)})"
            ) from error
        except AuthError as error:
            raise self._account_error("its name or password is wrong") from error
        except ClientError as error:
            if (error.code or "").startswith(_SECURITY):  # a locked account, or a password that must be changed first
                raise self._account_error(one_line(error)) from error
            raise _setting_error(
                "neo4j_database", f"'{settings.neo4j_database}' cannot be used ({error.message})"
            ) from error
        except (DriverError, Neo4jError, OSError) as error:
            raise _setting_error(
                "neo4j_uri", f"no server answers at {settings.neo4j_uri} ({one_line(error)})"
            ) from error
        stored_version = version[0][0] if version else None
        if stored_version is None:
            await self._refuse_strangers()
        elif stored_version not in (VERSION, RENEWING):
            metrics.count_degraded(
                "trace.broken", f"the trace has schema version {stored_version}, this program has {VERSION}."
            )
        return bool(stored_version == VERSION) and await self._has_constraints()

    async def renew(self) -> None:
        """Begin with an empty graph."""
        await self._set_version(RENEWING)
        for label in LABELS:
            while (await self.read(f"MATCH (n:{label}) RETURN count(n)"))[0][0]:
                await self.read(f"MATCH (n:{label}) WITH n LIMIT {DELETE_BATCH} DETACH DELETE n")
            await self.read(_CONSTRAINT.format(name=label.lower(), label=label))
        await self._set_version(VERSION)

    async def close(self) -> None:
        """Close the connections."""
        driver, self._driver = self._driver, None
        if driver is not None:
            await driver.close()

    async def read(self, query: str, **values: Any) -> Rows:
        """Run one query; return its rows."""
        async with self._translate_errors():
            return await self._rows(query, **values)

    async def write(self, work: Callable[[Run], Awaitable[None]]) -> None:
        """Run ``work`` as one transaction; the driver calls it again after a conflict."""

        async def run_work(transaction: neo4j.AsyncManagedTransaction) -> None:
            async def run(query: str, **values: Any) -> Rows:
                return [record.values() async for record in await transaction.run(query, values)]

            await run(_MARK, version=RENEWING)
            await work(run)

        async with (
            self._translate_errors(),
            self._require_driver().session(database=self._settings.neo4j_database) as session,
        ):
            await session.execute_write(run_work)

    async def _rows(self, query: str, **values: Any) -> Rows:
        result = await self._require_driver().execute_query(query, values, database_=self._settings.neo4j_database)
        return [record.values() for record in result.records]

    async def _set_version(self, version: int) -> None:
        await self.read("MERGE (t:Trace {id: 'trace'}) SET t.version = $version", version=version)

    async def _has_constraints(self) -> bool:
        """Make the constraints that are missing; return False when the nodes break them already."""
        try:
            for label in LABELS:
                await self.read(_CONSTRAINT.format(name=label.lower(), label=label))
        except StoreAway:
            raise
        except Unavailable as error:
            metrics.count_degraded("trace.broken", error.message)
            return False
        return True

    async def _refuse_strangers(self) -> None:
        for label in LABELS:
            if (await self.read(f"MATCH (n:{label}) RETURN count(n)"))[0][0]:
                raise _setting_error(
                    "neo4j_database",
                    f"'{self._settings.neo4j_database}' holds {label} nodes that this program did not make; it would "
                    "delete them",
                )

    @asynccontextmanager
    async def _translate_errors(self) -> AsyncIterator[None]:
        """Turn the driver's errors into this program's own.

        Raises:
            StoreAway: the server does not answer, or refuses whatever is asked; the error names the setting.
            Unavailable: it answers with an error.
        """
        with self._reach.watch():
            try:
                yield
            except (ServiceUnavailable, SessionExpired, OSError) as error:
                raise away_error("neo4j_uri", f"the trace's server does not answer ({one_line(error)})") from error
            except Neo4jError as error:
                raise _server_error(error) from error
            except DriverError as error:
                raise Unavailable(f"the trace failed: {one_line(error)}") from error

    def _account_error(self, reason: str) -> SetupError:
        settings = self._settings
        return _setting_error("neo4j_password", f"{settings.neo4j_uri} refuses user '{settings.neo4j_user}' ({reason})")

    def _require_driver(self) -> neo4j.AsyncDriver:
        if self._driver is None:
            raise Unavailable("the trace is closed.")
        return self._driver


def _server_error(error: Neo4jError) -> StoreAway | Unavailable:
    code, text = error.code or "", one_line(error)
    if code.startswith(_SECURITY):
        return away_error("neo4j_password", f"the trace's server refuses this account ({text})")
    if code in _READ_ONLY or code.startswith(_NO_DATABASE):
        return away_error("neo4j_database", f"the trace's database takes no writes ({text})")
    if isinstance(error, TransientError) and _TOO_LARGE not in code:
        return away_error("neo4j_uri", f"the trace's server takes no requests ({text})")
    if any(sign in text.lower() for sign in _DISK_REFUSES):
        return away_error("neo4j_uri", f"the trace's server cannot write ({text})")
    return Unavailable(f"the trace failed: {text}")
