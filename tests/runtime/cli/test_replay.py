"""``kiki replay`` as a person types it."""

import json
from functools import partial
from pathlib import Path

import anyio.to_thread
import pytest
from typer.testing import CliRunner, Result

from agents.memory.episodes import recorded as episode_of
from bus.connection import Bus
from runtime.cli.__main__ import app
from tests.agents.memory.scenes import answered, turn
from tests.agents.services.scenes import record

pytestmark = pytest.mark.anyio


async def kiki(nats_url: str, *arguments: str, input: str | None = None) -> Result:
    """Run the command in a thread of its own, as it brings its own event loop."""
    command = ["replay", *arguments, "--nats", nats_url]
    return await anyio.to_thread.run_sync(partial(CliRunner().invoke, app, command, input=input))


async def test_the_record_as_jsonl_by_tenant_and_session(bus: Bus, nats_url: str, tmp_path: Path) -> None:
    await record(bus, ["one"], session="s1")
    await record(bus, ["two"], tenant="bob")
    await record(bus, ["three"], session="s2")
    path = tmp_path / "ann.jsonl"
    found = await kiki(nats_url, "--tenant", "ann", "-o", str(path))
    assert found.exit_code == 0, found.output
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [(line["seq"], line["event"]["episode"]["question"]) for line in lines] == [(1, "one"), (3, "three")]
    again = await kiki(nats_url, "--file", str(path), "--session", "s2", "--from", "2", "-o", str(tmp_path / "two"))
    assert again.exit_code == 0, again.output
    assert [json.loads(line) for line in (tmp_path / "two").read_text().splitlines()] == lines[1:]


async def test_the_record_on_a_subject(bus: Bus, nats_url: str) -> None:
    await record(bus, ["one", "two"])
    subscription = await bus.client.subscribe("copies.here")
    await bus.client.flush()
    found = await kiki(nats_url, "--to", "copies.here")
    assert "2 messages sent to copies.here" in found.output
    assert (await subscription.next_msg(timeout=5)).header["Kiki-Seq"] == "1"


async def test_a_turns_recorded_inputs(bus: Bus, nats_url: str) -> None:
    event = answered(turn(key="one"), text="Where is the moon?")
    await bus.publish(episode_of(event))
    found = await kiki(nats_url, event.envelope.turn_id)
    assert found.exit_code == 0, found.output
    for said in ("Where is the moon?", "7, temperature 0", "cpp 0.8 ab", "1 recalled episodes are forgotten"):
        assert said in found.output


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--again"], "give its id"),
        (["--into-record"], "--into-record needs --file"),
        (["--to", "kiki.episode.recorded.x"], "the runtime's own"),
        (["--speed", "light"], "cannot replay"),
        (["--since", "soon"], "is no time"),
        (["--from", "0"], "from_seq"),
        (["--file", "/nowhere.jsonl"], "cannot read"),
        (["nobody"], "no event of turn 'nobody'"),
    ],
)
async def test_what_cannot_be_replayed_says_why(bus: Bus, nats_url: str, arguments: list[str], why: str) -> None:
    found = await kiki(nats_url, *arguments)
    assert found.exit_code == 1, found.output
    assert why in " ".join(found.output.split())
