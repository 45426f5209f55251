"""Divides a device's memory: the base's weights, adapters, kept prompts, and the caches of running rows. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Device = Literal["metal", "cuda", "cpu"]

MLX_SHARE = (460, 512)
"""Share of a GPU's memory that MLX may allocate where the device recommends nothing less; chosen, as the next ones."""
CPU_SHARE = (3, 4)
"""Share of a CPU's memory that the worker plans with: the rest is for the other processes and the system."""
ADAPTER_SHARE = (5, 8)
PROMPT_SHARE = (1, 8)
"""Shares of what the weights leave; the caches of running rows take the rest."""
CPU_PROMPTS = 512 * 1024**2
"""Bytes of kept prompts at most where other processes use the same memory."""


@dataclass(frozen=True, kw_only=True)
class MemoryPlan:
    """Bytes: ``usable`` ones in all, and those of each use."""

    usable: int
    weights: int
    adapters: int
    prompts: int
    rows: int


def limit_usable(total: int, device: Device, *, recommended: int | None = None, limit: int | None = None) -> int:
    """Bytes of the device's ``total`` that the worker may fill; the operator's ``limit`` counts before all else.

    ``recommended`` is what Metal recommends to use.
    """
    if limit is not None:
        return limit
    if device == "cpu":
        return _share(total, CPU_SHARE)
    return min(recommended or total, _share(total, MLX_SHARE))


def plan_memory(
    usable: int,
    device: Device,
    *,
    weights: int,
    adapters: int | None = None,
    prompts: int | None = None,
    rows: int | None = None,
    least_rows: int = 0,
) -> MemoryPlan:
    """The plan for ``usable`` bytes of which ``weights`` are taken.

    ``adapters``, ``prompts`` and ``rows`` are what the settings say; None takes a share of what the weights leave. Rows
    get what is left then, and at least ``least_rows``: the cache of one row as long as the context.
    """
    free = max(0, usable - weights)
    adapters = _share(free, ADAPTER_SHARE) if adapters is None else adapters
    if prompts is None:
        prompts = min(_share(free, PROMPT_SHARE), CPU_PROMPTS) if device == "cpu" else _share(free, PROMPT_SHARE)
    if rows is None:
        rows = max(least_rows, free - adapters - prompts)
    return MemoryPlan(usable=usable, weights=weights, adapters=adapters, prompts=prompts, rows=rows)


def count_fitting(budget: int, sizes: Iterable[int]) -> int:
    """How many adapters of these sizes are resident, and mix, at the same time: the smallest first."""
    count, total = 0, 0
    for size in sorted(sizes):
        total += size
        if total > budget:
            break
        count += 1
    return count


def choose_prefix_bits(device: Device, setting: int | None) -> int | None:
    """Bits of the keys and values of kept prompts; None keeps them as they are, and so does a ``setting`` of 0."""
    if setting is None:
        return None if device == "cpu" else 8
    return setting or None


def _share(size: int, share: tuple[int, int]) -> int:
    return size * share[0] // share[1]
