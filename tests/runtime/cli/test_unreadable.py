"""Listings go on past what nobody can read, and name it by its sequence."""

from functools import partial

import anyio.to_thread
import pytest
from typer.testing import CliRunner, Result

from bus.connection import Bus
from bus.stream import append
from runtime.cli.__main__ import app
from schemas.codec import encode
from schemas.status import DeadLetter
from tests.agents.services.scenes import register, run_services

pytestmark = pytest.mark.anyio


async def kiki(nats_url: str, *arguments: str) -> Result:
    """Run the command in a thread of its own, as it brings its own event loop."""
    command = [*arguments, "--nats", nats_url]
    options = partial(CliRunner(env={"COLUMNS": "200"}).invoke, app, command)
    result = await anyio.to_thread.run_sync(options)
    assert result.exit_code == 0, result.output
    return result


async def test_dead_letters_are_listed_and_shown_past_one_that_nobody_can_read(bus: Bus, nats_url: str) -> None:
    await append(bus, bus.subjects.dead("router", "tests"), b"no letter")
    letter = DeadLetter(
        subject="a", stream="TURNS", consumer="b", reason="[/b]", deliveries=1, headers={}, payload=b"d", failed_at=1.0
    )
    await append(bus, bus.subjects.dead("router", "tests"), encode(letter))
    lines = (await kiki(nats_url, "dead", "ls")).stdout.splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["1", "2"]
    assert "unreadable" in lines[1]
    assert "[/b]" in lines[2]
    shown = (await kiki(nats_url, "dead", "show", "1")).output
    assert "unreadable" in shown
    assert "no letter" in shown


async def test_dreams_are_listed_past_one_that_nobody_can_read(bus: Bus, nats_url: str) -> None:
    for kind in ("swapped", "done", "aborted"):
        await append(bus, bus.subjects.stage(f"dream.{kind}", "x"), b"{")
    lines = (await kiki(nats_url, "dream", "ls")).stdout.splitlines()
    assert len(lines) == 4
    for number, line in enumerate(lines[1:], 1):
        assert "unreadable" in line
        assert f"message {number} of DREAMLOG" in line


async def test_services_are_listed_past_what_nobody_can_read_in_their_log(bus: Bus, nats_url: str) -> None:
    async with run_services(bus):
        await register(bus)
        for verb in ("consumed", "registered"):
            for name in ("dream", "nobody"):
                await append(bus, bus.subjects.stage(f"service.{verb}", name), b"{")
        await bus.js.add_consumer("EPISODES", durable_name="svc-own", ack_policy="explicit")
        output = (await kiki(nats_url, "services", "ls")).stdout
        assert [line.split()[0] for line in output.splitlines()[1:]] == ["dream", "svc-own"]
        assert "nats consumer rm EPISODES svc-own -f" in output
