"""The journal: which requests were in hand when the worker died, and what that means for the next worker."""

import json
from pathlib import Path

import anyio
import pytest

from agents.inference.crash_journal import Quarantine
from schemas.errors import StageFailed

pytestmark = pytest.mark.anyio


def reopen_after_death(path: Path, *names: str, alone: dict[str, int] | None = None) -> Quarantine:
    path.write_text(json.dumps({"in_hand": names, "alone": alone or {}}))
    return Quarantine(path, patience=0.2)


async def test_an_orderly_end_leaves_no_suspects(tmp_path: Path) -> None:
    path = tmp_path / "j"
    first = Quarantine(path)
    async with first.hold("a"), first.hold("b"):
        assert json.loads(path.read_text())["in_hand"] == ["a", "b"]
    assert Quarantine(path).suspects == set()


async def test_a_request_that_ended_the_worker_twice_is_not_run_again(tmp_path: Path) -> None:
    path = tmp_path / "j"
    assert reopen_after_death(path, "a", "b", "c").suspects == {"a", "b", "c"}
    assert reopen_after_death(path, "a").suspects == {"a"}
    quarantine = reopen_after_death(path, "a", alone={"a": 1})
    with pytest.raises(StageFailed, match="ended the worker 2 times") as caught:
        async with quarantine.hold("a"):
            pass
    assert caught.value.retryable
    assert quarantine.suspects == set()


async def test_suspects_go_one_by_one_before_all_other_requests(tmp_path: Path) -> None:
    quarantine = reopen_after_death(tmp_path / "j", "a", "b")
    order: list[str] = []

    async def run(name: str) -> None:
        async with quarantine.hold(name):
            order.append(f"+{name}")
            await anyio.sleep(0.01)
            order.append(f"-{name}")

    async with anyio.create_task_group() as tasks:
        for name in ("x", "a", "b"):
            tasks.start_soon(run, name)
    assert order == ["+a", "-a", "+b", "-b", "+x", "-x"]


async def test_requests_of_a_failing_worker_stay_in_the_journal(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with pytest.raises(RuntimeError):
        async with Quarantine(path, is_well=lambda: False).hold("a"):
            raise RuntimeError("the model's thread has ended")
    assert Quarantine(path).suspects == {"a"}


async def test_requests_wait_for_suspects_no_longer_than_the_patience(tmp_path: Path) -> None:
    quarantine = reopen_after_death(tmp_path / "j", "a")
    with anyio.fail_after(5):
        async with quarantine.hold("a"), quarantine.hold("x"):
            assert quarantine.suspects == {"a"}


async def test_a_suspect_that_ran_is_cleared_though_it_failed(tmp_path: Path) -> None:
    path = tmp_path / "j"
    quarantine = reopen_after_death(path, "a")
    with pytest.raises(RuntimeError):
        async with quarantine.hold("a"):
            raise RuntimeError("refused, and the worker lives")
    assert (quarantine.suspects, Quarantine(path).suspects) == (set(), set())


async def test_a_suspect_that_does_not_come_again_delays_one_worker_only(tmp_path: Path) -> None:
    path = tmp_path / "j"
    quarantine = reopen_after_death(path, "a")
    async with quarantine.hold("x"):
        pass
    assert (quarantine.suspects, Quarantine(path).suspects) == (set(), set())


@pytest.mark.parametrize("text", ["", "{", "[]", '{"in_hand": 3, "alone": {}}'])
async def test_a_journal_that_cannot_be_read_is_no_reason_to_stop(tmp_path: Path, text: str) -> None:
    (tmp_path / "j").write_text(text)
    async with Quarantine(tmp_path / "j").hold("a"):
        pass
