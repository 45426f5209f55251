"""The benches' charts."""

from pathlib import Path
from typing import Any

import pytest

from runtime.bench.plots import Chart, IntervalBar, bar_chart, box_chart, interval_chart, write_chart


def draw_two(columns: Any) -> None:
    for axes in columns:
        axes.plot([1, 2], [3, 4])


@pytest.mark.parametrize(
    "chart",
    [
        bar_chart(["a", "b"], {"ours": [1.0, 2.0], "theirs": [None, 3.0]}, unit="ms", log=True, caption="by turns"),
        interval_chart([IntervalBar(label="a", middle=0.5, low=0.4, high=0.7)], unit="share", baseline=0.5),
        box_chart({"rank 4": [1.0, 2.0, 9.0]}, unit="ms"),
        Chart(draw=draw_two, columns=2),
    ],
    ids=["bars", "intervals", "boxes", "two columns"],
)
def test_each_chart_becomes_a_picture(chart: Chart, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    write_chart(chart, tmp_path / "made" / "chart.png", title="kiki bench")
    assert (tmp_path / "made" / "chart.png").read_bytes().startswith(b"\x89PNG")
