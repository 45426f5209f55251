"""The forgetting gate: whether a new adapter may stand beside those that are there.

An adapter is refused when it is not healthy, and when it points along another (an angle under :data:`MIN_ANGLE`) unless
it was measured that the other wins hardly less with it: at most :data:`MAX_WIN_DROP`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from agents.shared.adapters.angles import Comparison, compare_adapters
from agents.shared.adapters.files import AdapterFile
from agents.shared.adapters.folders import STAGED, Stranger
from agents.shared.adapters.health import HealthReport, check_health
from agents.shared.adapters.rules import ModuleShape, UnfitAdapter

MIN_ANGLE = 30.0
"""Degrees between a change and another adapter under which it counts as overwriting it."""

MAX_WIN_DROP = 0.03
"""How much of its win rate another adapter may lose, when the angle is too small."""

MeasureDrop = Callable[[Path], float]
"""The win rate, 0 to 1, that the prior in a folder loses with the new adapter beside it."""
OnStep = Callable[[str], None]


class GateVerdict(IntEnum):
    """What the gate says; the numbers are exit codes of ``kiki adapters gate``."""

    PASS = 0
    ANGLE = 1
    """An angle is too small, and no win rate could be measured."""
    WIN_RATE = 2
    """An angle is too small, and the prior loses too much of its win rate."""
    HEALTH = 3
    """The adapter is not usable."""


@dataclass(frozen=True, kw_only=True)
class PriorJudgement:
    """A new adapter against one prior. ``drop`` is None when no win rate was measured."""

    name: str
    folder: Path
    comparison: Comparison
    drop: float | None = None

    @property
    def verdict(self) -> GateVerdict:
        """What this prior says of the new adapter."""
        return judge_angle(self.comparison.smallest[0], self.drop)


@dataclass(frozen=True, kw_only=True)
class GateReport:
    """The verdict on an adapter with all that led to it. ``skipped``: priors that it was not compared with, and why."""

    health: HealthReport
    priors: tuple[PriorJudgement, ...] = ()
    skipped: tuple[Stranger, ...] = ()

    @property
    def verdict(self) -> GateVerdict:
        """The gravest of all verdicts."""
        if not self.health.is_healthy:
            return GateVerdict.HEALTH
        return max((prior.verdict for prior in self.priors), default=GateVerdict.PASS)


def judge_angle(angle: float, drop: float | None) -> GateVerdict:
    """The verdict for an angle in degrees to a prior, and what the prior's win rate lost, if that was measured."""
    if angle >= MIN_ANGLE:
        return GateVerdict.PASS
    if drop is None:
        return GateVerdict.ANGLE
    return GateVerdict.WIN_RATE if drop > MAX_WIN_DROP + 1e-9 else GateVerdict.PASS


def judge_adapter(
    folder: Path,
    priors: Mapping[str, Path],
    *,
    measure_drop: MeasureDrop | None = None,
    base: Mapping[str, ModuleShape] | None = None,
    on_step: OnStep = lambda _: None,
) -> GateReport:
    """Judge the adapter in ``folder`` against ``priors`` by name.

    A prior of the same domain is one that the adapter is to replace: it is skipped, and so are the folder itself and
    what is staged. The win rate is measured only for priors whose angle is too small: it takes minutes of a model.

    Raises:
        InvalidInput: a prior is of another base.
        KikiError: what ``measure_drop`` raises.
    """
    on_step("health")
    health = check_health(folder, base=base)
    if not health.is_healthy:
        return GateReport(health=health)
    judgements: list[PriorJudgement] = []
    skipped: list[Stranger] = []
    new = AdapterFile(folder)
    for name, path in sorted(priors.items()):
        if path.resolve() == folder.resolve() or STAGED in name:
            continue
        if name == new.name:
            skipped.append(Stranger(path, f"it is of the same domain, {name}, which the new one replaces"))
            continue
        on_step(f"angle to {name}")
        try:
            (comparison,) = compare_adapters([new, AdapterFile(path)]).values()
        except UnfitAdapter as fault:
            skipped.append(Stranger(path, f"it cannot be served, so nothing of it can be lost: {fault.message}"))
            continue
        drop = None
        if measure_drop is not None and comparison.smallest[0] < MIN_ANGLE:
            on_step(f"win rate of {name}")
            drop = measure_drop(path)
        judgements.append(PriorJudgement(name=name, folder=path, comparison=comparison, drop=drop))
    return GateReport(health=health, priors=tuple(judgements), skipped=tuple(skipped))
