"""Records wait for recalls, but not for ever."""

import anyio
import pytest

from agents.memory.priority import RecallPriority

pytestmark = pytest.mark.anyio


async def append_record(priority: RecallPriority, events: list[str]) -> None:
    await priority.wait_for_recalls()
    events.append("recorded")


async def test_a_record_begins_when_the_last_recall_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.memory.priority.PATIENCE", 60.0)
    priority, events = RecallPriority(), list[str]()
    async with anyio.create_task_group() as tasks:
        with priority.mark_recall():
            with priority.mark_recall():
                tasks.start_soon(append_record, priority, events)
                await anyio.wait_all_tasks_blocked()
            await anyio.wait_all_tasks_blocked()
            events.append("recalled")
    assert events == ["recalled", "recorded"]


async def test_a_recall_that_fails_lets_the_record_begin() -> None:
    priority, events = RecallPriority(), list[str]()
    with pytest.raises(ValueError, match="store"), priority.mark_recall():
        raise ValueError("the store fails")
    await append_record(priority, events)
    assert events == ["recorded"]


async def test_recalls_without_end_do_not_keep_a_record_out() -> None:
    priority, events = RecallPriority(), list[str]()
    with priority.mark_recall():
        await append_record(priority, events)
        events.append("still recalling")
    assert events == ["recorded", "still recalling"]


async def test_a_record_without_recalls_begins_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agents.memory.priority.PATIENCE", 60.0)
    with anyio.fail_after(30):
        await RecallPriority().wait_for_recalls()
