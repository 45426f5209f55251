"""``kiki dream`` as a person types it: run, list, look, export."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import anyio.to_thread
import pytest

from bus.connection import Bus
from bus.stream import append
from tests.agents.dream.test_swap import dreaming, export_mine
from tests.agents.services.scenes import fetch, forget, record, register, run_services

pytestmark = pytest.mark.anyio


async def kiki(nats_url: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run the command in a process of its own: the agents of the test keep theirs, with its standard output."""
    command = [sys.executable, "-m", "runtime", "dream", *arguments, "--nats", nats_url]
    environment = {**os.environ, "KIKI_CONFIG": "/nowhere.toml", "COLUMNS": "200"}
    call = partial(subprocess.run, command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    return await anyio.to_thread.run_sync(call)


async def test_a_dream_is_run_listed_and_looked_at(bus: Bus, nats_url: str, tmp_path: Path) -> None:
    async with dreaming(bus, tmp_path), run_services(bus):
        await register(bus, "sleeper")
        (event,) = await record(bus, ["forgotten"])
        await fetch(bus, "sleeper")
        await forget(bus, event)
        await record(bus, ["first", "second"])
        result = await kiki(nats_url, "run", "mine", "--service", "sleeper")
        assert result.returncode == 0, result.stderr
        assert f"mine is {(await export_mine(bus)).sha256[:12]} now: 2 records" in result.stdout
        listing = " ".join((await kiki(nats_url, "ls")).stdout.split())
        assert "de-mine-3 done mine replay, downscale; 2 records of ann/" in listing
        assert "de-mine-3 swapped mine" in listing
        assert await fetch(bus, "sleeper") == ()
        status = json.loads((await kiki(nats_url, "status", "de-mine-3")).stdout)
        assert (status["state"], status["report"]["record_ids"]) == ("done", [3, 4])


async def test_an_export_has_the_form_of_load_beta_jsonl(bus: Bus, nats_url: str, tmp_path: Path) -> None:
    await record(bus, ["dull"], salience=0.1)
    await record(bus, ["bright"], salience=0.9)
    await record(bus, ["foreign"], tenant="bob", salience=0.9)
    await append(bus, bus.subjects.stage("episode.recorded", "x"), b"no JSON")
    path = tmp_path / "beta.jsonl"
    result = await kiki(nats_url, "export", str(path), "--tenant", "ann", "--min-saillance", "0.5")
    assert result.returncode == 0, result.stderr
    assert "1 records in" in result.stdout
    assert "1 unreadable" in result.stdout
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [(line["id"], line["context"], line["saillance_score"]) for line in lines] == [(2, "bright", 0.9)]
