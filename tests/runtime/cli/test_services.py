"""``kiki services``: a service takes its name, is listed with its place, gives it up, and the record is trimmed."""

from functools import partial

import anyio.to_thread
import pytest
from typer.testing import CliRunner, Result

from bus.connection import Bus
from runtime.cli.__main__ import app
from tests.agents.services.scenes import record, run_services

pytestmark = pytest.mark.anyio


async def kiki(nats_url: str, *arguments: str) -> Result:
    """Run a verb of ``kiki services`` in a thread of its own, as it brings its own event loop."""
    command = ["services", *arguments, "--nats", nats_url]
    return await anyio.to_thread.run_sync(partial(CliRunner(env={"COLUMNS": "200"}).invoke, app, command))


async def test_a_service_is_registered_listed_and_given_up(bus: Bus, nats_url: str) -> None:
    async with run_services(bus):
        assert (await kiki(nats_url, "ls")).stdout.strip() == "no services are registered"
        await record(bus, ["one", "two", "three"])
        options = ("--user", "ann", "--min-saillance", "0.5", "--begin", "new")
        assert (await kiki(nats_url, "register", "late", *options)).stdout.strip().startswith("registered late: 0 ")
        assert (await kiki(nats_url, "register", "early")).stdout.strip() == "registered early: 3 records before it"
        lines = (await kiki(nats_url, "ls")).stdout.splitlines()
        places = {line.split()[0]: line for line in lines[1:]}
        assert set(places) == {"early", "late"}
        assert "user ann, salience >= 0.5" in places["late"]
        assert "episode.recorded, episode.forgotten" in places["early"]
        assert " all " in places["early"]
        given_up = (await kiki(nats_url, "unregister", "early")).stdout.strip()
        assert given_up == "unregistered early: it had 3 records left"
        assert "early" not in (await kiki(nats_url, "ls")).stdout


async def test_the_record_is_trimmed_as_far_as_every_service_has_read(bus: Bus, nats_url: str) -> None:
    async with run_services(bus):
        await record(bus, ["one", "two"])
        await kiki(nats_url, "register", "slow")
        held = (await kiki(nats_url, "trim", "2100-01-01")).stdout
        assert held.startswith("0 records dropped; the rest waits for ")
        assert "slow" in held
        await kiki(nats_url, "unregister", "slow")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("register", "no name"), "name"),
        (("register", "dream", "--min-saillance", "2"), "min_saillance"),
        (("register", "dream", "--begin", "last"), "begin"),
        (("trim", "yesterday"), "yesterday"),
        (("unregister", "nobody"), "nobody"),
    ],
)
async def test_an_impossible_request_is_refused_in_one_line(
    bus: Bus, nats_url: str, arguments: tuple[str, ...], named: str
) -> None:
    async with run_services(bus):
        result = await kiki(nats_url, *arguments)
    assert result.exit_code != 0
    assert result.output.count("\n") == 1
    assert result.output.startswith("kiki: ")
    assert named in result.output
