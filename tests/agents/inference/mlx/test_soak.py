"""Memory over many mixed requests: what the first tenth needed must do for the rest."""

import json
import os
import random
from pathlib import Path
from typing import Any

import anyio
import msgspec
import numpy as np
import psutil
import pytest

from agents.inference.settings import InferenceSettings
from schemas.findings import AdapterUse
from tests.agents.inference.mlx.test_engine import ask

pytestmark = pytest.mark.anyio

REQUESTS = int(os.environ.get("KIKI_SOAK_REQUESTS", "2000"))
CLIENTS = 8
SETS = ((), (AdapterUse(name="one"),), (AdapterUse(name="two"),), (AdapterUse(name="one", weight=0.5),))
SLACK = 1.05
"""How much the last quarter's median may be above the second quarter's."""

Reading = tuple[int, float, float]
"""The request's number, resident set and MLX's active bytes, both in MB."""


async def run_requests(settings: InferenceSettings, requests: int) -> list[Reading]:
    """Run mixed requests by several clients, each answered; a reading after every tenth."""
    from agents.inference.mlx.engine import MlxEngine

    engine = MlxEngine(msgspec.structs.replace(settings, prefix_bytes=16 * 1024**2, cache_limit=256 * 1024**2))
    await engine.start()
    draw, readings, pending = random.Random(1), list[Reading](), list(range(requests))[::-1]
    me = psutil.Process()

    async def client() -> None:
        while pending:
            number = pending.pop()
            sampling: dict[str, Any] = {"max_tokens": draw.randint(1, 4), "temperature": draw.choice((0.0, 1.0))}
            words = " ".join(draw.choices(("river", "clock", "bridge", "violin", "desert"), k=draw.randint(1, 12)))
            request = ask(f"{number} {words}", adapters=draw.choice(SETS), sampling=sampling)
            await engine.generate(request)
            if number % 10 == 0:
                readings.append((number, me.memory_info().rss / 2**20, engine.gauges["mlx_active_bytes"] / 2**20))

    try:
        async with anyio.create_task_group() as tasks:
            for _ in range(CLIENTS):
                tasks.start_soon(client)
        assert engine.gauges["active_rows"] == engine.gauges["active_requests"] == 0
    finally:
        await engine.stop()
    return sorted(readings)


async def test_mixed_requests_are_all_answered(settings: InferenceSettings) -> None:
    """The short form."""
    assert len(await run_requests(settings, 40)) == 4


@pytest.mark.soak
@pytest.mark.timeout(3600)
async def test_memory_stays_flat(settings: InferenceSettings, tmp_path: Path) -> None:
    readings = await run_requests(settings, REQUESTS)
    draw_picture(readings, Path(os.environ.get("KIKI_SOAK_OUT", str(tmp_path))))
    quarter = len(readings) // 4
    for column, label in ((1, "resident set"), (2, "MLX active bytes")):
        values = np.array(readings)[:, column]
        before, after = np.median(values[quarter : 2 * quarter]), np.median(values[-quarter:])
        assert after <= SLACK * before, f"{label}: {before:.0f} MB, later {after:.0f} MB"


def draw_picture(readings: list[Reading], folder: Path) -> None:
    """The readings as JSON and, where matplotlib is installed, as a picture."""
    (folder / "soak.json").write_text(json.dumps(readings))
    mpl = pytest.importorskip("matplotlib")
    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    numbers, resident, active = zip(*readings, strict=True)
    axes.plot(numbers, resident, label="resident set")
    axes.plot(numbers, active, label="MLX active bytes")
    axes.set_xlabel("request")
    axes.set_ylabel("MB")
    axes.set_ylim(bottom=0)
    axes.set_title(f"{len(readings) * 10} mixed requests: three adapter sets and the base, {CLIENTS} at once")
    axes.legend()
    figure.savefig(folder / "soak.png", dpi=150)
    pyplot.close(figure)
