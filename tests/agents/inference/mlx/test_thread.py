"""When the model's thread begins a step: at once for a lone request, later when the last requests came together."""

import contextlib
import threading
from typing import Any

import anyio
import pytest

from agents.inference.mlx import thread
from agents.inference.mlx.thread import ModelThread

pytestmark = pytest.mark.anyio


class ScriptedDecoder:
    """A decoder whose work is done in one step; ``together`` lists how many requests each step took."""

    def __init__(self) -> None:
        self.waiting = 0
        self.together: list[int] = []
        self.stepped = threading.Event()

    @property
    def stream(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    @property
    def busy(self) -> bool:
        return self.waiting > 0

    @property
    def crowded(self) -> bool:
        return self.waiting > 1

    def add(self, count: int = 1) -> None:
        self.waiting += count

    def step(self) -> None:
        if self.waiting:
            self.together.append(self.waiting)
            self.waiting = 0
            self.stepped.set()

    def send_to_all(self, update: Any) -> None:
        """Nobody listens."""


async def test_the_thread_waits_for_companions_only_after_a_crowd(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = ScriptedDecoder()
    model_thread = ModelThread(lambda: decoder, stall_seconds=60)  # type: ignore[arg-type, return-value]
    await model_thread.start()

    async def add_and_wait(count: int = 1) -> None:
        decoder.stepped.clear()
        model_thread.call(lambda: decoder.add(count))
        assert await anyio.to_thread.run_sync(decoder.stepped.wait, 20.0)

    with anyio.fail_after(60):
        monkeypatch.setattr(thread, "GATHER_SECONDS", 3600.0)
        await add_and_wait(1)
        await add_and_wait(2)  # after one that was alone: no wait, though these are two
        monkeypatch.setattr(thread, "GATHER_SECONDS", 1.0)
        decoder.stepped.clear()
        model_thread.call(decoder.add)
        await anyio.sleep(0.05)
        model_thread.call(decoder.add)
        assert await anyio.to_thread.run_sync(decoder.stepped.wait, 20.0)
        await add_and_wait(1)
        await add_and_wait(1)
        await model_thread.stop()
    assert decoder.together == [1, 2, 2, 1, 1]
