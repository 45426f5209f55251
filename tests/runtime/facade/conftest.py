"""A facade on a free port, over a real broker, with scripted agents behind the bus.

A module has one facade, on a connection of its own; the streams are fresh for each test that takes ``bus``.
"""

from collections.abc import AsyncIterator

import httpx
import pytest

from bus.broker import EmbeddedBroker
from bus.connection import Bus, BusSettings, connect
from runtime.facade import FacadeSettings
from tests.runtime.facade.conformance import check_response
from tests.runtime.facade.example_services import run_example_services
from tests.runtime.facade.scripted import Script, run_scripted_agents, serve_facade


@pytest.fixture(scope="module")
def settings() -> FacadeSettings:
    """Overridden by modules that need other limits."""
    return FacadeSettings(port=0)


@pytest.fixture
async def script(bus: Bus, nats_url: str) -> AsyncIterator[Script]:
    script = Script()
    async with run_scripted_agents(nats_url, script):
        yield script


@pytest.fixture
async def example_services(bus: Bus) -> AsyncIterator[None]:
    async with run_example_services(bus):
        yield


@pytest.fixture(scope="module")
async def url(broker: EmbeddedBroker, settings: FacadeSettings) -> AsyncIterator[str]:
    async with connect(BusSettings(url=broker.url), name="facade") as bus:
        await bus.reconcile()
        async with serve_facade(bus, settings) as address:
            yield address


@pytest.fixture(scope="module")
async def http(url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client whose every reply must be one of those that the OpenAPI document has."""
    hooks = {"response": [check_response]}
    async with httpx.AsyncClient(base_url=url, timeout=20, event_hooks=hooks) as client:
        yield client
