"""Whether an adapter on disk is usable: every rule of :mod:`.rules`, on every module, with NumPy."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from agents.shared.adapters.files import AdapterFile
from agents.shared.adapters.folders import name_of
from agents.shared.adapters.rules import ModuleShape, UnfitAdapter, check_fit, check_pair, judge_numbers
from agents.shared.adapters.verdicts import read_digest

OnAdvance = Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class HealthReport:
    """What was read of an adapter, and every rule that it breaks; ``ranks`` are the smallest and the largest."""

    name: str
    folder: Path
    sha256: str = ""
    nbytes: int = 0
    dtype: str = ""
    modules: int = 0
    ranks: tuple[int, int] = (0, 0)
    faults: tuple[UnfitAdapter, ...]

    @property
    def is_healthy(self) -> bool:
        """Whether no rule is broken."""
        return not self.faults


def check_health(
    folder: Path, *, base: Mapping[str, ModuleShape] | None = None, on_advance: OnAdvance = lambda: None
) -> HealthReport:
    """Check an adapter's format, pairs, shapes and numbers; its fit only if the ``base``'s shapes are given.

    One module is in memory at a time; ``on_advance`` is called after each.
    """
    try:
        file = AdapterFile(folder)
    except UnfitAdapter as fault:
        return HealthReport(name=name_of(folder), folder=folder, faults=(fault,))
    faults: list[UnfitAdapter] = []
    ranks: list[int] = []
    for module in file.modules:
        try:
            ranks.append(check_pair(module, *file.shapes(module)))
            if base is not None:
                check_fit(module, *file.shapes(module), base.get(module))
        except UnfitAdapter as fault:
            faults.append(fault)
            continue
        a, b = file.read_sides(module)
        is_finite = bool(np.isfinite(a).all() and np.isfinite(b).all())
        faults += judge_numbers(module, is_finite=is_finite, is_alive=bool(b.any()))
        on_advance()
    return HealthReport(
        name=file.name,
        folder=folder,
        sha256=read_digest(file.tensors.path),
        nbytes=file.tensors.nbytes,
        dtype=file.dtype,
        modules=len(file.modules),
        ranks=(min(ranks, default=0), max(ranks, default=0)),
        faults=tuple(faults),
    )
