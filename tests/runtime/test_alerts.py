"""The alert rules are PromQL over metrics that are really exposed."""

from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client import generate_latest

from agents.services import agent as _  # noqa: F401 - registers its gauges
from bus import metrics
from runtime.facade import metrics as telemetry

RULES = Path(__file__).parents[2] / "deploy" / "alerts.yaml"
FAMILIES = {"kiki_agent_ready", "kiki_stream_bytes", "kiki_stream_messages", "kiki_queue_pending"}
"""Gauges that the facade makes of the agents' reports and of the broker's account
(runtime/facade/routes/metrics.py)."""


def rules() -> list[dict[str, Any]]:
    document = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    return [rule for group in document["groups"] for rule in group["rules"]]


def metric_names(node: Any) -> set[str]:
    """The names of the metrics in an expression."""
    if isinstance(node, promql_parser.VectorSelector):
        return {str(node.name)}
    parts = [getattr(node, field, None) for field in ("expr", "lhs", "rhs", "vector_selector", "args")]
    names: set[str] = set()
    for part in parts:
        for child in part if isinstance(part, list) else [part]:
            if child is not None:
                names |= metric_names(child)
    return names


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_a_rule_reads_metrics_that_exist_and_says_the_mend(rule: dict[str, Any]) -> None:
    names = metric_names(promql_parser.parse(rule["expr"]))
    exposition = "".join(generate_latest(registry).decode() for registry in (metrics.REGISTRY, telemetry.REGISTRY))
    assert names
    for name in names:
        assert name in FAMILIES or f"# TYPE {name} " in exposition, name
    assert rule["annotations"]["mend"]
