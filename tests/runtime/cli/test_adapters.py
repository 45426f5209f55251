"""``kiki adapters`` with two workers: it says which it speaks for, and where their files differ."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio.to_thread
import pytest

from agents.shared.workers import find_workers
from bus.agent import Endpoint
from bus.connection import Bus, BusSettings, connect
from bus.testing import run_agents
from schemas.adapters import AdapterInfo, AdapterListReply, AdapterListRequest, AdapterRequest
from schemas.calls import ADAPTERS_LOAD, ADAPTERS_LS
from schemas.status import StatusReply

pytestmark = pytest.mark.anyio


class ListingWorker:
    """A worker with one adapter, of a digest of its own."""

    name = "inference"

    def __init__(self, worker: str, digest: str) -> None:
        self._worker, self._info = worker, AdapterInfo(name="rust", worker=worker, sha256=digest * 64, resident=True)

    @asynccontextmanager
    async def open(self, bus: Bus) -> AsyncIterator[None]:
        """There is nothing to load."""
        yield

    def handlers(self) -> Sequence[Any]:
        return ()

    def endpoints(self) -> Sequence[Endpoint]:
        async def list_adapters(_: AdapterListRequest) -> AdapterListReply:
            return AdapterListReply(adapters=(self._info,), worker=self._worker)

        async def load(_: AdapterRequest) -> AdapterInfo:
            return self._info

        return (
            Endpoint(ADAPTERS_LS.at(self._worker), list_adapters),
            Endpoint(ADAPTERS_LOAD, load),
        )

    def status(self) -> StatusReply:
        return StatusReply(agent=self.name, ready=True, info={"worker": self._worker})


@asynccontextmanager
async def two_workers(nats_url: str, *digests: str) -> AsyncIterator[None]:
    async with (
        connect(BusSettings(url=nats_url), name="a") as first,
        connect(BusSettings(url=nats_url), name="b") as second,
        run_agents(first, ListingWorker("studio-1", digests[0])),
        run_agents(second, ListingWorker("studio-2", digests[1])),
    ):
        yield


async def kiki(nats_url: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "runtime", "adapters", *arguments, "--nats", nats_url]
    environment = {**os.environ, "KIKI_CONFIG": "/nowhere.toml", "COLUMNS": "200"}
    call = partial(subprocess.run, command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    return await anyio.to_thread.run_sync(call)


async def test_each_worker_is_listed_and_a_disagreement_is_said(bus: Bus, nats_url: str) -> None:
    async with two_workers(nats_url, "1", "2"):
        assert await find_workers(bus) == ("studio-1", "studio-2")
        result = await kiki(nats_url, "ls")
    assert result.returncode == 0, result.stderr
    lines = [line.split() for line in result.stdout.splitlines()[1:]]
    assert [(line[0], line[1], line[-1]) for line in lines] == [
        ("studio-1", "rust", "1" * 12),
        ("studio-2", "rust", "2" * 12),
    ]
    assert f"workers disagree on 'rust': studio-1 {'1' * 12}, studio-2 {'2' * 12}" in result.stderr


async def test_workers_that_agree_are_listed_without_a_word(bus: Bus, nats_url: str) -> None:
    async with two_workers(nats_url, "3", "3"):
        result = await kiki(nats_url, "ls")
        loaded = await kiki(nats_url, "load", "rust")
    assert "disagree" not in result.stdout + result.stderr
    assert "load rust on studio-" in loaded.stdout
