"""Judges an adapter that comes into a folder while no gates are asked: after a training, or a pull from the hub."""

import time
from collections.abc import Callable
from pathlib import Path

from agents.shared.adapters.folders import survey_adapters
from agents.shared.adapters.gate import MAX_WIN_DROP, MIN_ANGLE, GateReport, GateVerdict, judge_adapter
from agents.shared.adapters.verdicts import KeptVerdict, VerdictFolder
from schemas.adapters import Gate, VerdictState

STATES: dict[GateVerdict, VerdictState] = {
    GateVerdict.PASS: "passed",
    GateVerdict.ANGLE: "waiting",
    GateVerdict.WIN_RATE: "refused",
    GateVerdict.HEALTH: "refused",
}
"""What each verdict makes of the weights. An angle without a win rate is for a runtime's gates, which measure it."""


def judge_newcomer(adapters: Path, folder: Path, *, on_step: Callable[[str], None] = lambda _: None) -> KeptVerdict:
    """Judge the adapter in ``folder`` against those of the folder ``adapters``, which keeps the verdict.

    What lies in ``adapters`` before is the operator's, if no runtime has started with it yet.

    Raises:
        SetupError: ``adapters`` does not exist.
        InvalidInput: an adapter there is of another base.
    """
    return keep_verdict(adapters, judge_adapter(folder, survey_adapters(adapters).paths, on_step=on_step))


def keep_verdict(adapters: Path, report: GateReport) -> KeptVerdict:
    """Keep what the gate said of an adapter in the folder ``adapters``, before the adapter takes its place there.

    Raises:
        SetupError: ``adapters`` does not exist.
    """
    verdicts = VerdictFolder(adapters)
    verdicts.begin(dict(survey_adapters(adapters).paths))
    verdict = KeptVerdict(
        sha256=report.health.sha256,
        state=STATES[report.verdict],
        name=report.health.name,
        message=_explain(report),
        gates=_list_gates(report),
        judged_at=time.time(),
    )
    if verdict.sha256:
        verdicts.record(verdict, path=report.health.folder)
    return verdict


def _list_gates(report: GateReport) -> tuple[Gate, ...]:
    faults = report.health.faults
    health = Gate(name="health", passed=not faults, detail=faults[0].message if faults else "")
    nearest = min(report.priors, key=lambda prior: prior.comparison.smallest, default=None)
    if faults or nearest is None:
        return (health,)
    degrees, where = nearest.comparison.smallest
    angle = Gate(
        name="angle",
        passed=degrees >= MIN_ANGLE,
        value=degrees,
        bound=MIN_ANGLE,
        detail=f"{nearest.name}, {where or 'no module in common'}",
    )
    drops = [
        Gate(
            name="win_rate",
            passed=prior.verdict is GateVerdict.PASS,
            value=prior.drop,
            bound=MAX_WIN_DROP,
            detail=prior.name,
        )
        for prior in report.priors
        if prior.drop is not None
    ]
    return (health, angle, *drops)


def _explain(report: GateReport) -> str:
    """Why the adapter is not passed; empty when it is."""
    if report.verdict is GateVerdict.PASS:
        return ""
    gate = next(gate for gate in reversed(_list_gates(report)) if not gate.passed)
    if gate.value is None:
        return gate.detail
    if gate.name == "win_rate":
        return f"{gate.detail} loses {gate.value:.3f} of its win rate with it"
    return f"{gate.value:.1f} degrees from {gate.detail}"
