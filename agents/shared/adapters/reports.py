"""Verdicts, comparisons and health as plain values for JSON. Angles are degrees rounded to 0.01."""

from typing import Any

from agents.shared.adapters.angles import Comparison
from agents.shared.adapters.gate import MAX_WIN_DROP, MIN_ANGLE, GateReport, PriorJudgement
from agents.shared.adapters.health import HealthReport


def describe_comparison(comparison: Comparison) -> dict[str, Any]:
    """Over all, by kind, by layer and by module; ``smallest`` is what the gate judges."""
    degrees, where = comparison.smallest
    return {
        "new": comparison.first,
        "prior": comparison.second,
        "smallest": {"degrees": round(degrees, 2), "where": where},
        "overall": round(comparison.overall, 2),
        "kinds": {kind: round(angle, 2) for kind, angle in comparison.by_kind.items()},
        "layers": {str(layer): round(angle, 2) for layer, angle in comparison.by_layer.items()},
        "modules": {module: round(angle, 2) for module, angle in comparison.by_module.items()},
    }


def describe_health(health: HealthReport) -> dict[str, Any]:
    """What was read, and every fault with its rule, module, reason and mend."""
    return {
        "name": health.name,
        "folder": str(health.folder),
        "healthy": health.is_healthy,
        "sha256": health.sha256,
        "bytes": health.nbytes,
        "dtype": health.dtype,
        "modules": health.modules,
        "ranks": list(health.ranks),
        "faults": [
            {"rule": fault.rule, "module": fault.module, "reason": fault.reason, "mend": fault.mend}
            for fault in health.faults
        ],
    }


def describe_gate(report: GateReport) -> dict[str, Any]:
    """The verdict, its exit code, and all that led to it."""
    return {
        "verdict": report.verdict.name.lower(),
        "exit_code": int(report.verdict),
        "min_angle": MIN_ANGLE,
        "max_win_drop": MAX_WIN_DROP,
        "health": describe_health(report.health),
        "priors": [_describe_prior(prior) for prior in report.priors],
        "skipped": [{"folder": str(stranger.path), "reason": stranger.reason} for stranger in report.skipped],
    }


def _describe_prior(prior: PriorJudgement) -> dict[str, Any]:
    return {
        "verdict": prior.verdict.name.lower(),
        "folder": str(prior.folder),
        "win_rate_drop": None if prior.drop is None else round(prior.drop, 4),
        **describe_comparison(prior.comparison),
    }
