"""Streams and consumers are declared once; drift is an error that says what differs."""

import dataclasses

import pytest

from bus import topology
from bus.connection import Bus
from schemas.errors import SetupError

pytestmark = pytest.mark.anyio


async def test_reconciling_twice_changes_nothing(bus: Bus) -> None:
    before = [info.config for info in await bus.js.streams_info()]
    await bus.reconcile()
    assert [info.config for info in await bus.js.streams_info()] == before
    names = {config.name for config in before}
    assert names == {
        "TURNS",
        "ANSWERS",
        "EPISODES",
        "ADAPTERS",
        "JOBS",
        "DEAD",
        "SERVICES",
        "DREAMS",
        "DREAMLOG",
        "LATENTS",
    }


async def test_drift_of_a_stream_names_the_field(bus: Bus) -> None:
    turns = next(config for config in topology.streams(bus.subjects) if config.name == topology.TURNS)
    await bus.js.update_stream(dataclasses.replace(turns, max_age=1800.0))
    with pytest.raises(SetupError, match=r"stream TURNS differs.*max_age is 1800\.0, expected 3600\.0.*nats stream rm"):
        await bus.reconcile()


async def test_drift_of_a_consumer_names_the_field(bus: Bus) -> None:
    config = topology.consumer("echo", ["kiki.query.received.*"], ack_wait=4.0, max_ack_pending=64)
    await topology.reconcile_consumer(bus.js, topology.TURNS, config)
    await topology.reconcile_consumer(bus.js, topology.TURNS, config)
    changed_config = dataclasses.replace(config, ack_wait=9.0)
    with pytest.raises(SetupError, match=r"TURNS/echo differs.*ack_wait is 4\.0, expected 9\.0"):
        await topology.reconcile_consumer(bus.js, topology.TURNS, changed_config)


async def test_token_deltas_are_in_no_stream(bus: Bus) -> None:
    configs = [info.config for info in await bus.js.streams_info()]
    patterns = [subject for config in configs for subject in config.subjects or []]
    assert not any(pattern.startswith("kiki.infer.") and pattern != "kiki.infer.done.*" for pattern in patterns)
