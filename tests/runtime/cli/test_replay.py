"""``kiki replay`` as a person types it."""

import json
from functools import partial
from pathlib import Path

import anyio.to_thread
import pytest
from typer.testing import CliRunner, Result

from agents.memory.episodes import build_record as episode_of
from bus.connection import Bus
from bus.stream import append
from runtime.cli.__main__ import app
from tests.agents.memory.scenes import answer_ready, turn
from tests.agents.services.scenes import record

pytestmark = pytest.mark.anyio


async def kiki(nats_url: str, *arguments: str, input: str | None = None) -> Result:
    """Run the command in a thread of its own, as it brings its own event loop."""
    command = ["replay", *arguments, "--nats", nats_url]
    return await anyio.to_thread.run_sync(partial(CliRunner().invoke, app, command, input=input))


async def test_the_record_is_written_as_jsonl_by_tenant_and_session(bus: Bus, nats_url: str, tmp_path: Path) -> None:
    await record(bus, ["one"], session="s1")
    await record(bus, ["two"], tenant="bob")
    await record(bus, ["three"], session="s2")
    path = tmp_path / "ann.jsonl"
    result = await kiki(nats_url, "--tenant", "ann", "-o", str(path))
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [(line["seq"], line["event"]["episode"]["question"]) for line in lines] == [(1, "one"), (3, "three")]
    again = await kiki(nats_url, "--file", str(path), "--session", "s2", "--from", "2", "-o", str(tmp_path / "two"))
    assert again.exit_code == 0, again.output
    assert [json.loads(line) for line in (tmp_path / "two").read_text().splitlines()] == lines[1:]


async def test_a_record_is_written_past_what_is_no_json_and_read_back(bus: Bus, nats_url: str, tmp_path: Path) -> None:
    await record(bus, ["one\u2028line"])
    await append(bus, bus.subjects.stage("episode.recorded", "x"), b"no JSON")
    await record(bus, ["three"])
    path, copy = tmp_path / "all.jsonl", tmp_path / "copy.jsonl"
    result = await kiki(nats_url, "-o", str(path))
    assert result.exit_code == 0, result.output
    assert "record 2 left out" in result.output
    again = await kiki(nats_url, "--file", str(path), "-o", str(copy))
    assert again.exit_code == 0, again.output
    assert copy.read_bytes() == path.read_bytes()
    assert [json.loads(line)["seq"] for line in path.read_text(encoding="utf-8").split("\n")[:-1]] == [1, 3]


async def test_the_record_is_published_on_a_subject(bus: Bus, nats_url: str) -> None:
    await record(bus, ["one", "two"])
    subscription = await bus.client.subscribe("copies.here")
    await bus.flush()
    result = await kiki(nats_url, "--to", "copies.here")
    assert "2 messages sent to copies.here" in result.output
    assert (await subscription.next_msg(timeout=5)).header["Kiki-Seq"] == "1"


async def test_a_turns_recorded_inputs_are_printed(bus: Bus, nats_url: str) -> None:
    event = answer_ready(turn(key="one"), text="Where is the moon?")
    await bus.publish(episode_of(event))
    result = await kiki(nats_url, event.envelope.turn_id)
    assert result.exit_code == 0, result.output
    for phrase in ("Where is the moon?", "7, temperature 0", "cpp 0.8 ab", "1 recalled episodes are forgotten"):
        assert phrase in result.output


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
async def test_a_replay_that_is_refused_says_why(bus: Bus, nats_url: str, arguments: list[str], why: str) -> None:
    result = await kiki(nats_url, *arguments)
    assert result.exit_code == 1, result.output
    assert why in " ".join(result.output.split())
