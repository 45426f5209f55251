"""``docs/metrics.md`` has each metric with its kind and labels, each reading of the facade, and each degraded path."""

import ast
import functools
import re
from collections.abc import Iterator
from typing import Any

from tests.supply.locking import ROOT

PAGE = ROOT / "docs" / "metrics.md"
ROOMS = ("schemas", "bus", "agents", "runtime")
KINDS = {"Counter": "counter", "Gauge": "gauge", "Histogram": "histogram"}
ROW = re.compile(r"^\| `(kiki_\w+)` \| (\w+) \|(.*?)\| (.+) \|$", re.MULTILINE)
PATH_ROW = re.compile(r"^\| `([a-z0-9_<>.]+)` \| (.+) \|$", re.MULTILINE)


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Each call of the code with the last part of its function's name."""
    for room in ROOMS:
        for file in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    function = node.func
                    yield function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", ""), node


def read_text(node: Any) -> str | None:
    """A text of the code, with ``<name>`` for what is filled in; None for another expression."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if not isinstance(node, ast.JoinedStr):
        return None
    parts = [
        str(part.value) if isinstance(part, ast.Constant) else f"<{ast.unparse(part.value).rpartition('.')[2]}>"
        for part in node.values
        if isinstance(part, ast.Constant | ast.FormattedValue)
    ]
    return "".join(parts)


def metrics_of_the_code() -> dict[str, tuple[str, tuple[str, ...]]]:
    """The kind and the labels of each metric that the code makes, by the name that Prometheus shows."""
    found = {}
    for name, call in calls():
        metric = read_text(call.args[0]) if call.args else None
        if name in KINDS and metric is not None:
            labels = call.args[2].elts if len(call.args) > 2 and isinstance(call.args[2], ast.List) else []
            shown = f"{metric}_total" if name == "Counter" else metric
            found[shown] = (KINDS[name], tuple(str(read_text(label)) for label in labels))
        if name == "add_gauge" and metric is not None and "<" not in metric:
            found.setdefault(metric, ("gauge", ()))
    return found


@functools.cache
def paths_of_the_code() -> frozenset[str]:
    """The paths that are counted as degraded."""
    paths = {read_text(call.args[0]) for name, call in calls() if name == "count_degraded"}
    for name, call in calls():
        if name == "start_soon" and getattr(call.args[0], "id", "") == "keep_running":
            paths.add(read_text(call.args[1]))
        if name == "labels" and ast.unparse(call.func).endswith("DEGRADED.labels"):
            paths.add(read_text(call.args[0]))
    return frozenset(path for path in paths if path is not None)


def test_every_metric_stands_on_the_page_with_its_kind_and_labels() -> None:
    rows = {name: (kind, labels) for name, kind, labels, _ in ROW.findall(PAGE.read_text(encoding="utf-8"))}
    for metric, (kind, labels) in metrics_of_the_code().items():
        assert metric in rows, f"{metric} is missing"
        assert rows[metric][0] == kind
        assert tuple(re.findall(r"`(\w+)`", rows[metric][1]))[: len(labels)] == labels, metric


def test_every_degraded_path_stands_on_the_page_and_no_other() -> None:
    text = PAGE.read_text(encoding="utf-8")
    paths = {path for path, _ in PATH_ROW.findall(text.partition("## Degraded paths")[2])}
    assert paths == paths_of_the_code()
