"""Records wait for recalls, but not for ever."""

import anyio
import pytest

from agents.memory.priority import Precedence

pytestmark = pytest.mark.anyio


async def noted(precedence: Precedence, what: list[str]) -> None:
    await precedence.after()
    what.append("recorded")


async def test_a_record_begins_when_the_last_recall_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.memory.priority.PATIENCE", 60.0)
    precedence, what = Precedence(), list[str]()
    async with anyio.create_task_group() as tasks:
        with precedence.first():
            with precedence.first():
                tasks.start_soon(noted, precedence, what)
                await anyio.wait_all_tasks_blocked()
            await anyio.wait_all_tasks_blocked()
            what.append("recalled")
    assert what == ["recalled", "recorded"]


async def test_a_recall_that_fails_lets_the_record_begin() -> None:
    precedence, what = Precedence(), list[str]()
    with pytest.raises(ValueError, match="store"), precedence.first():
        raise ValueError("the store fails")
    await noted(precedence, what)
    assert what == ["recorded"]


async def test_recalls_without_end_do_not_keep_a_record_out() -> None:
    precedence, what = Precedence(), list[str]()
    with precedence.first():
        await noted(precedence, what)
        what.append("still recalling")
    assert what == ["recorded", "still recalling"]


async def test_nobody_to_wait_for_is_no_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.memory.priority.PATIENCE", 60.0)
    with anyio.fail_after(30):
        await Precedence().after()
