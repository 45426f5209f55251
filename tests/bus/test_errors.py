"""The bus's errors: what nats-py raises never leaves the room, and only one module knows it."""

import ast
from pathlib import Path

import pytest

import bus as room
from bus import stream
from bus.connection import Bus, BusSettings, connect
from bus.errors import BrokerUnavailable, SequenceConflict, translate_errors
from bus.testing import temporary_broker
from bus.topology import EPISODES
from schemas.errors import InvalidInput, Unavailable

pytestmark = pytest.mark.anyio


def test_an_error_without_words_is_named_by_its_kind() -> None:
    with pytest.raises(BrokerUnavailable) as caught, translate_errors("the record was not trimmed", advice="ask again"):
        raise TimeoutError
    assert caught.value.message == "the record was not trimmed: TimeoutError; ask again."
    assert (caught.value.reason, caught.value.code, caught.value.retryable) == ("TimeoutError", "unavailable", True)


def test_a_callers_words_replace_those_of_the_bus() -> None:
    with (
        pytest.raises(BrokerUnavailable) as caught,
        translate_errors("the record cannot be reached", advice="ask again"),
        translate_errors("EPISODES cannot be read"),
    ):
        raise ConnectionResetError("reset by peer")
    assert caught.value.message == "the record cannot be reached: reset by peer; ask again."


@pytest.mark.parametrize("error", [InvalidInput("no."), Unavailable("the worker is away."), ValueError("a bug")])
def test_other_errors_stay_as_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, translate_errors("nothing was stored"):
        raise error
    assert caught.value is error


async def test_a_broker_that_is_gone_is_unavailable_to_every_verb() -> None:
    async with temporary_broker() as broker:
        settings = BusSettings(url=broker.url, publish_timeout=0.2)
        async with connect(settings, name="test") as bus:
            await bus.client.close()
            assert not bus.is_connected
            for verb in (bus.send("x"), bus.flush(), bus.reconcile(), stream.measure_stream(bus, EPISODES)):
                with pytest.raises(BrokerUnavailable):
                    await verb


async def test_a_message_that_came_between_is_a_conflict(bus: Bus) -> None:
    subject = bus.subjects.stage("service.consumed", "name")
    first = await stream.append(bus, subject, b"one", after=0)
    with pytest.raises(SequenceConflict) as caught:
        await stream.append(bus, subject, b"two", after=0)
    assert (caught.value.code, caught.value.retryable) == ("in_hand", True)
    assert await stream.append(bus, subject, b"two", after=first) == first + 1


def test_one_module_knows_the_exceptions_of_nats() -> None:
    knowing = []
    for path in Path(room.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [str(node.module)] if isinstance(node, ast.ImportFrom) else []
            knowing += [path.stem for name in names if name.startswith("nats.") and name.endswith("errors")]
    assert set(knowing) == {"errors"}
