"""Real parts for the tests: a broker, the small model, the embedder. Started once, stopped at the end."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import structlog
from nats.js.errors import ServerError

from bus import broker as server
from bus.connection import Bus, BusSettings, connect
from schemas.errors import SetupError

# As the runtime does: structlog's own tracebacks name every local variable, which takes a second each.
structlog.configure(
    processors=[
        *structlog.get_config()["processors"][:-1],
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """nats-py runs on asyncio."""
    return "asyncio"


@pytest.fixture(scope="session")
async def broker(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[server.EmbeddedBroker]:
    """One embedded nats-server for the session, on a free port."""
    async with server.run_broker(tmp_path_factory.mktemp("nats"), port=0) as running:
        yield running


@pytest.fixture
def nats_url(broker: server.EmbeddedBroker) -> str:
    """The client address of the session's broker."""
    return broker.url


@pytest.fixture
async def bus(nats_url: str) -> AsyncIterator[Bus]:
    """A connected bus on fresh streams."""
    async with connect(BusSettings(url=nats_url), name="test") as connection:
        await delete_streams(connection, untouched=False)
        try:
            await connection.reconcile()
        except (SetupError, ServerError):  # a test declared one otherwise, or its directory was still being removed
            await delete_streams(connection, untouched=True)
            await connection.reconcile()
        yield connection


async def delete_streams(bus: Bus, *, untouched: bool) -> None:
    """Delete all streams, or leave those that never had a message or a consumer: most tests use few."""
    for stream in await bus.js.streams_info():
        if untouched or stream.state.last_seq or stream.state.consumer_count:
            await bus.js.delete_stream(str(stream.config.name))


@pytest.fixture(scope="session")
def small_model() -> Path:
    """The default chat model, prepared once in the user's cache."""
    from runtime.models import prepare

    return prepare("smollm2-135m-instruct")


@pytest.fixture(scope="session")
def embedder_path() -> Path:
    """The default embedder, prepared once in the user's cache."""
    from runtime.models import prepare

    return prepare("all-mpnet-base-v2")
