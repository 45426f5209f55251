"""A swap with two worker processes: it reaches both or neither, and the one that was away takes it over."""

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save, save_file

from agents.dream.agent import DreamAgent
from agents.dream.settings import DreamSettings
from agents.gates.agent import GatesAgent
from agents.gates.settings import GatesSettings
from agents.shared import workers
from bus.connection import Bus
from bus.storage import objects
from bus.testing import run_agents
from schemas.adapters import AdapterInfo, AdapterJudged, AdapterListReply, judgement_of
from schemas.calls import DREAM_SWAP
from schemas.consolidation import SwapReply
from schemas.dream import DreamSwapped
from schemas.envelope import new_turn
from schemas.errors import KikiError
from tests.agents.dream.test_swap import prepare_swap
from tests.agents.dream.worker import DreamWorker
from tests.bus.conftest import eventually

pytestmark = pytest.mark.anyio
WEIGHTS = "adapters.safetensors"


@contextmanager
def _start(url: str, folder: Path, *options: str) -> Iterator[None]:
    folder.mkdir(exist_ok=True)
    process = subprocess.Popen([sys.executable, "-m", "tests.agents.dream.worker", url, str(folder), *options])
    try:
        yield
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as processes:
        yield processes


@pytest.fixture
async def dreams(bus: Bus, tmp_path: Path) -> AsyncIterator[None]:
    retained = tmp_path / "retained.jsonl"
    retained.write_text(json.dumps({"question": "q", "choices": ["right", "wrong"], "answer": 0}) + "\n")
    dream = DreamAgent(DreamSettings(retained=retained, judge_timeout=20.0))
    async with run_agents(bus, dream, GatesAgent(GatesSettings(probes=retained, judge_timeout=20.0))):
        yield


async def wait_for(bus: Bus, count: int) -> None:
    async def are_there() -> bool:
        return len(set(await workers.find_workers(bus)) - {""}) == count

    await eventually(are_there, seconds=60)


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "mine" / WEIGHTS).read_bytes()).hexdigest()


async def swap(bus: Bus) -> SwapReply:
    return await bus.request(DREAM_SWAP, await prepare_swap(bus), timeout=60)


def list_folders(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")}


async def test_a_swap_reaches_both_workers(
    bus: Bus, nats_url: str, dreams: None, stack: ExitStack, tmp_path: Path
) -> None:
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        stack.enter_context(_start(nats_url, folder))
    await wait_for(bus, 2)
    before = {digest(folder) for folder in folders}
    reply = await swap(bus)
    assert before == {reply.base_sha256}
    assert [digest(folder) for folder in folders] == [reply.sha256, reply.sha256]
    assert [list_folders(folder) for folder in folders] == [{"mine", "other"}] * 2


async def test_a_swap_that_one_worker_cannot_make_is_made_by_none(
    bus: Bus, nats_url: str, dreams: None, stack: ExitStack, tmp_path: Path
) -> None:
    folders = [tmp_path / "able", tmp_path / "unable"]
    stack.enter_context(_start(nats_url, folders[0]))
    stack.enter_context(_start(nats_url, folders[1], "--refuse"))
    await wait_for(bus, 2)
    (before,) = {digest(folder) for folder in folders}
    with pytest.raises(KikiError, match="the disk is broken"):
        await swap(bus)
    assert [digest(folder) for folder in folders] == [before, before]
    assert [list_folders(folder) for folder in folders] == [{"mine", "other"}] * 2


async def test_a_swap_is_refused_while_the_workers_files_differ(
    bus: Bus, nats_url: str, dreams: None, stack: ExitStack, tmp_path: Path
) -> None:
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in folders:
        stack.enter_context(_start(nats_url, folder))
    await wait_for(bus, 2)
    tensors = load_file(folders[1] / "mine" / WEIGHTS)
    save_file({name: tensor * np.float32(2) for name, tensor in tensors.items()}, folders[1] / "mine" / WEIGHTS)
    before = [digest(folder) for folder in folders]
    with pytest.raises(KikiError, match=r"'mine' (with|has) digest .*(give all workers the same file|begin again)"):
        await swap(bus)
    assert [digest(folder) for folder in folders] == before
    assert [list_folders(folder) for folder in folders] == [{"mine", "other"}] * 2


async def test_workers_share_one_folder(
    bus: Bus, nats_url: str, dreams: None, stack: ExitStack, tmp_path: Path
) -> None:
    folder = tmp_path / "both"
    for count in (1, 2):
        stack.enter_context(_start(nats_url, folder))
        await wait_for(bus, count)
    reply = await swap(bus)
    assert digest(folder) == reply.sha256
    assert list_folders(folder) == {"mine", "other"}


async def test_a_worker_that_was_away_takes_the_swap_over(
    bus: Bus, nats_url: str, dreams: None, stack: ExitStack, tmp_path: Path
) -> None:
    here, away, edited = tmp_path / "here", tmp_path / "away", tmp_path / "edited"
    stack.enter_context(_start(nats_url, here))
    await wait_for(bus, 1)
    shutil.copytree(here, away)
    shutil.copytree(here, edited)
    reply = await swap(bus)
    save_file(
        {name: tensor + 1 for name, tensor in load_file(edited / "mine" / WEIGHTS).items()}, edited / "mine" / WEIGHTS
    )
    own = digest(edited)
    assert digest(away) == reply.base_sha256
    for folder in (away, edited):
        stack.enter_context(_start(nats_url, folder))
    await wait_for(bus, 3)
    assert digest(away) == reply.sha256
    assert digest(edited) == own, "a file that no swap knows is the operator's"


async def test_a_worker_that_was_not_asked_takes_over_what_it_hears_of(bus: Bus, tmp_path: Path) -> None:
    """Its verbs alone: the real worker calls them at each ``dream.swapped``."""
    worker = DreamWorker(tmp_path, lambda name: True)
    async with run_agents(bus, worker):
        base = digest(tmp_path)
        tensors = load_file(tmp_path / "mine" / WEIGHTS)
        sha256 = await objects.put(bus, save({name: tensor * np.float32(2) for name, tensor in tensors.items()}))
        life = judgement_of(sha256, name="mine")
        await bus.publish(AdapterJudged(envelope=life, name="mine", sha256=sha256, passed=True))
        await bus.publish(
            DreamSwapped(
                envelope=new_turn(tenant="dream", timeout=60.0),
                adapter="mine",
                sha256=sha256,
                base_sha256=base,
                pause_ms=1.0,
                retained_set="",
                retained_before=1.0,
                retained_after=1.0,
            )
        )
        await worker._consolidation.follow_swaps()
        assert digest(tmp_path) == sha256
        assert list_folders(tmp_path) == {"mine", "other"}


def listing(worker: str, **digests: str) -> AdapterListReply:
    infos = tuple(AdapterInfo(name=name, worker=worker, sha256=digest) for name, digest in digests.items())
    return AdapterListReply(adapters=infos, worker=worker)


def test_disagreements_are_those_of_adapters_that_both_have_read() -> None:
    listings = [
        listing("a", rust="1" * 64, sql="2" * 64, docker=""),
        listing("b", rust="3" * 64, sql="2" * 64, docker="4" * 64),
    ]
    disagreements = workers.find_disagreements(listings)
    assert disagreements == {"rust": {"a": "1" * 64, "b": "3" * 64}}
    line = workers.describe_disagreement("rust", disagreements["rust"])
    assert line == "workers disagree on 'rust': a 111111111111, b 333333333333; give them the same file"


def test_a_workers_name_is_one_token_of_a_subject(monkeypatch: pytest.MonkeyPatch) -> None:
    for host in ("Studio.local", "käse box", "...", "x" * 200):
        monkeypatch.setattr("socket.gethostname", partial(str, host))
        name = workers.name_worker()
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
        assert len(name) < 64
