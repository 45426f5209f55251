"""The router's bench: which prompts each contestant gets."""

import anyio
import anyio.lowlevel
import pytest

from runtime.bench import router


@pytest.mark.anyio
async def test_contestants_get_the_same_prompts_once_and_alternate_in_beginning() -> None:
    calls: list[tuple[str, str]] = []
    most = running = 0

    def contestant(name: str) -> router.Call:
        async def call(text: str) -> None:
            nonlocal most, running
            calls.append((name, text))
            running += 1
            most = max(most, running)
            await anyio.lowlevel.checkpoint()
            running -= 1

        return call

    ticks: list[None] = []
    latencies = await router.measure(
        {"a": contestant("a"), "b": contestant("b")}, singles=4, rounds=2, width=3, tick=lambda: ticks.append(None)
    )
    texts = {name: sorted(text for caller, text in calls if caller == name) for name in ("a", "b")}
    assert texts["a"] == texts["b"]
    assert len(set(texts["a"])) == len(texts["a"]) == router.WARM_UP + 4 + 2 * 3
    singles = [name for name, _ in calls[2 * router.WARM_UP :][:8]]
    assert singles == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert (most, len(ticks)) == (3, 6)
    assert [(figures.what, figures.at_once) for figures in latencies] == [("a", 1), ("b", 1), ("a", 3), ("b", 3)]
    again = await router.measure_repeated(contestant("c"), times=5)
    assert len({text for name, text in calls if name == "c"}) == 1
    assert again.rate > 0
