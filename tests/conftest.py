"""Real parts for the tests: a broker, the small model, the embedder. Started once, stopped at the end."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import hypothesis
import pytest
import structlog

from bus import metrics
from bus.broker import EmbeddedBroker, run_broker
from bus.connection import Bus
from bus.testing import connect_fresh
from tests.e2e.conftest import free_port
from tests.needs import mark_needs
from tests.neo4j_server import Neo4jServer, serve_neo4j

SMALL_MODEL = "smollm2-135m-instruct"
"""What tests ask unless they name another model: small and quick."""

os.environ["KIKI_MODEL"] = SMALL_MODEL  # for every runtime that a test starts

# How long an example takes says how busy the machine is, not whether the code is right.
hypothesis.settings.register_profile("shared", deadline=None)
hypothesis.settings.load_profile("shared")

# As the runtime does: structlog's own tracebacks name every local variable, which takes a second each.
structlog.configure(
    processors=[
        *structlog.get_config()["processors"][:-1],
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with what it needs, so that ``-m "not broker"`` and the like choose."""
    mark_needs(items)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """nats-py runs on asyncio."""
    return "asyncio"


@pytest.fixture(autouse=True)
def degraded_paths(monkeypatch: pytest.MonkeyPatch) -> None:
    """What degrades in a test is in its own log, though a process logs each path once."""
    monkeypatch.setattr(metrics, "_logged_kinds", {})


@pytest.fixture(scope="session")
async def broker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[EmbeddedBroker]:
    """One embedded nats-server for the session, on a free port; its files lie in a temporary folder."""
    async with run_broker(tmp_path_factory.mktemp("nats"), port=0) as running:
        yield running


@pytest.fixture
def nats_url(broker: EmbeddedBroker) -> str:
    """The client address of the session's broker."""
    return broker.url


@pytest.fixture
async def bus(nats_url: str) -> AsyncIterator[Bus]:
    """A connected bus on fresh streams."""
    async with connect_fresh(nats_url) as connection:
        yield connection


@pytest.fixture(scope="session")
def small_model() -> Path:
    """The small chat model, prepared once in the user's cache."""
    from runtime.models import prepare

    return prepare(SMALL_MODEL)


@pytest.fixture(scope="session")
def embedder_path() -> Path:
    """The default embedder, prepared once in the user's cache."""
    from runtime.models import prepare

    return prepare("all-mpnet-base-v2")


@pytest.fixture(scope="session")
def neo4j_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Neo4jServer]:
    """One Neo4j for the session, started at first use; its database is the tests' own."""
    with serve_neo4j(tmp_path_factory.mktemp("neo4j"), free_port()) as server:
        yield server
