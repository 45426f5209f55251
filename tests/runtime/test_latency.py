"""The router's bench: who is asked what, and what the picture needs."""

from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from agents.router.training.evaluation import measure as figures_of
from runtime import latency
from runtime.cli.pictures import confusion, reliability


@pytest.mark.anyio
async def test_everybody_gets_the_same_prompts_once_and_the_first_changes() -> None:
    asked: list[tuple[str, str]] = []
    most = running = 0

    def contestant(name: str) -> latency.Call:
        async def call(text: str) -> None:
            nonlocal most, running
            asked.append((name, text))
            running += 1
            most = max(most, running)
            await anyio.lowlevel.checkpoint()
            running -= 1

        return call

    ticks: list[None] = []
    found = await latency.measure(
        {"a": contestant("a"), "b": contestant("b")}, singles=4, rounds=2, width=3, tick=lambda: ticks.append(None)
    )
    texts = {name: sorted(text for who, text in asked if who == name) for name in ("a", "b")}
    assert texts["a"] == texts["b"]
    assert len(set(texts["a"])) == len(texts["a"]) == latency.WARM_UP + 4 + 2 * 3
    singles = [name for name, _ in asked[2 * latency.WARM_UP :][:8]]
    assert singles == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert (most, len(ticks)) == (3, 6)
    assert [(one.what, one.at_once) for one in found] == [("a", 1), ("b", 1), ("a", 3), ("b", 3)]
    again = await latency.repeated(contestant("c"), times=5)
    assert len({text for name, text in asked if name == "c"}) == 1
    assert again.rate > 0


def test_pictures_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    import numpy as np

    scores = np.array([[0.9, 0.1], [0.2, 0.6], [0.7, 0.3], [0.1, 0.2]], dtype=np.float32)
    found = figures_of(scores, [("rust",), ("sql",), ("sql",), ()], ("rust", "sql"), 0.5)
    assert found.domains["sql"].confused == {"rust": 1}
    for draw in (reliability, confusion):
        draw(found, tmp_path / "made" / f"{draw.__name__}.png")
        assert (tmp_path / "made" / f"{draw.__name__}.png").read_bytes().startswith(b"\x89PNG")
