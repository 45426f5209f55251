"""The journal: who was at the model when the worker died, and what that means for the next."""

import json
from pathlib import Path

import anyio
import pytest

from agents.inference.crash_journal import Quarantine
from schemas.errors import StageFailed

pytestmark = pytest.mark.anyio


def died(path: Path, *names: str, alone: dict[str, int] | None = None) -> Quarantine:
    path.write_text(json.dumps({"in_hand": names, "alone": alone or {}}))
    return Quarantine(path, patience=0.2)


async def test_an_orderly_end_leaves_no_suspects(tmp_path: Path) -> None:
    path = tmp_path / "j"
    first = Quarantine(path)
    async with first.hold("a"), first.hold("b"):
        assert json.loads(path.read_text())["in_hand"] == ["a", "b"]
    assert Quarantine(path).suspects == set()


async def test_one_that_was_alone_twice_is_not_run_again(tmp_path: Path) -> None:
    path = tmp_path / "j"
    assert died(path, "a", "b", "c").suspects == {"a", "b", "c"}
    assert died(path, "a").suspects == {"a"}
    condemned = died(path, "a", alone={"a": 1})
    with pytest.raises(StageFailed, match="ended the worker 2 times") as caught:
        async with condemned.hold("a"):
            pass
    assert caught.value.retryable
    assert condemned.suspects == set()


async def test_suspects_go_one_by_one_and_others_wait_for_them(tmp_path: Path) -> None:
    held = died(tmp_path / "j", "a", "b")
    order: list[str] = []

    async def run(name: str) -> None:
        async with held.hold(name):
            order.append(f"+{name}")
            await anyio.sleep(0.01)
            order.append(f"-{name}")

    async with anyio.create_task_group() as tasks:
        for name in ("x", "a", "b"):
            tasks.start_soon(run, name)
    assert order == ["+a", "-a", "+b", "-b", "+x", "-x"]


async def test_what_a_failing_worker_gives_up_stays_in_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with pytest.raises(RuntimeError):
        async with Quarantine(path, well=lambda: False).hold("a"):
            raise RuntimeError("the model's thread has ended")
    assert Quarantine(path).suspects == {"a"}


async def test_nobody_waits_for_ever(tmp_path: Path) -> None:
    held = died(tmp_path / "j", "a")
    async with held.hold("x"):
        assert held.suspects == {"a"}


@pytest.mark.parametrize("text", ["", "{", "[]", '{"in_hand": 3, "alone": {}}'])
async def test_a_journal_that_cannot_be_read_is_no_reason_to_stop(tmp_path: Path, text: str) -> None:
    (tmp_path / "j").write_text(text)
    async with Quarantine(tmp_path / "j").hold("a"):
        pass
