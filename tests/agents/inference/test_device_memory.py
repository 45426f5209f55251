"""How a device's memory is divided, and what the fleet of docs/reference/adapters.md needs of it."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.inference.device_memory import (
    CPU_PROMPTS,
    Device,
    choose_prefix_bits,
    count_fitting,
    limit_usable,
    plan_memory,
)

GIB, GB = 1024**3, 10**9
DOCS = Path(__file__).parents[3] / "docs" / "reference" / "adapters.md"

PARAMETERS, BITS = 35_000_000_000, 4.5
"""Of Qwen3.6-35B-A3B, with the scales of groups of 64 in four bits."""
WEIGHTS = int(PARAMETERS * BITS / 8)
ADAPTER_NUMBERS = 1_030_000_000
"""Rank 16 on 17 kinds of modules in 32 layers."""
BFLOAT16, FLOAT32 = 2 * ADAPTER_NUMBERS, 4 * ADAPTER_NUMBERS
SMALL_WEIGHTS, SMALL_ADAPTER = 630_000_000, 35_000_000
"""The default model in int8, and an adapter of rank 16 on all its linear layers in float32."""

MACHINES: tuple[tuple[str, Device, int, int | None, int, int, int, int], ...] = (
    # name, device, memory, recommended by Metal, weights, adapters registered, bytes of each in bfloat16 and float32
    ("Mac, 512 GB", "metal", 512 * GIB, 384 * GIB, WEIGHTS, 35, BFLOAT16, FLOAT32),
    ("Mac, 128 GB", "metal", 128 * GIB, 96 * GIB, WEIGHTS, 35, BFLOAT16, FLOAT32),
    ("GPU, 24 GB", "cuda", 24 * GIB, None, WEIGHTS, 4, BFLOAT16, FLOAT32),
    ("CPU, 16 GB, default model", "cpu", 16 * GIB, None, SMALL_WEIGHTS, 4, SMALL_ADAPTER // 2, SMALL_ADAPTER),
)


def row(name: str, device: Device, memory: int, recommended: int | None, weights: int, *rest: int) -> str:
    count, half, full = rest
    plan = plan_memory(limit_usable(memory, device, recommended=recommended), device, weights=weights)
    parts = [plan.usable, plan.weights, plan.adapters, plan.prompts, plan.rows]
    fitting = [count_fitting(plan.adapters, [size] * count) for size in (half, full)]
    cells = [name, *(f"{part / GB:.1f}" for part in parts), *(f"{number} of {count}" for number in fitting)]
    return f"| {' | '.join(cells)} |"


@pytest.mark.parametrize("machine", MACHINES, ids=[machine[0] for machine in MACHINES])
def test_the_table_of_the_docs_is_what_the_plan_computes(machine: tuple[str, Device, int, int | None, int]) -> None:
    assert row(*machine) in DOCS.read_text().splitlines()


@pytest.mark.parametrize(
    ("device", "recommended", "limit", "usable"),
    [
        ("metal", None, None, 460 * GIB),
        ("metal", 384 * GIB, None, 384 * GIB),
        ("metal", 500 * GIB, None, 460 * GIB),
        ("metal", 384 * GIB, 100 * GIB, 100 * GIB),
        ("cuda", None, None, 460 * GIB),
        ("cpu", None, None, 384 * GIB),
        ("cpu", None, 8 * GIB, 8 * GIB),
    ],
)
def test_usable_bytes_follow_the_device_or_the_operator(
    device: Device, recommended: int | None, limit: int | None, usable: int
) -> None:
    assert limit_usable(512 * GIB, device, recommended=recommended, limit=limit) == usable


@given(
    usable=st.integers(0, 10**13),
    weights=st.integers(0, 10**12),
    device=st.sampled_from(["metal", "cuda", "cpu"]),
)
def test_a_plan_never_promises_more_than_the_weights_leave(usable: int, weights: int, device: Device) -> None:
    plan = plan_memory(usable, device, weights=weights)
    assert plan.adapters + plan.prompts + plan.rows == max(0, usable - weights)
    assert min(plan.adapters, plan.prompts, plan.rows) >= 0
    assert device != "cpu" or plan.prompts <= CPU_PROMPTS


def test_settings_come_before_shares() -> None:
    plan = plan_memory(100, "cuda", weights=20, adapters=10, prompts=0)
    assert (plan.adapters, plan.prompts, plan.rows) == (10, 0, 70)
    assert plan_memory(100, "cuda", weights=20, rows=7).rows == 7
    assert plan_memory(100, "cuda", weights=90, least_rows=50).rows == 50, "one row of the whole context must be served"


def test_as_many_fit_as_the_budget_holds() -> None:
    assert count_fitting(10, [4, 3, 3, 9]) == 3
    assert count_fitting(10, [11]) == 0


@pytest.mark.parametrize(
    ("device", "setting", "bits"),
    [("metal", None, 8), ("cuda", None, 8), ("cpu", None, None), ("metal", 0, None), ("cpu", 8, 8)],
)
def test_kept_prompts_have_8_bits_on_a_gpu(device: Device, setting: int | None, bits: int | None) -> None:
    assert choose_prefix_bits(device, setting) == bits
