"""Streams are declared once, and hold what they should."""

import pytest

from bus.connection import Bus

pytestmark = pytest.mark.anyio


async def test_every_stream_is_declared(bus: Bus) -> None:
    names = {info.config.name for info in await bus.js.streams_info()}
    assert names == {
        "TURNS",
        "ANSWERS",
        "EPISODES",
        "ADAPTERS",
        "JOBS",
        "DEAD",
        "SERVICES",
        "DREAMS",
        "DREAMLOG",
        "LATENTS",
        "STORAGE",
    }


async def test_token_deltas_are_in_no_stream(bus: Bus) -> None:
    configs = [info.config for info in await bus.js.streams_info()]
    patterns = [subject for config in configs for subject in config.subjects or []]
    assert not any(pattern.startswith("kiki.infer.") and pattern != "kiki.infer.done.*" for pattern in patterns)
