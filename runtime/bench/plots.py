"""Pictures of a bench's figures: bars, intervals and boxes, or what a bench draws by itself."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.canvas import canvas

GROUP = 0.8
"""Width of all bars over one label; labels are 1 apart."""


@dataclass(frozen=True, kw_only=True)
class Chart:
    """``draw`` gets matplotlib's axes, an array of them with several ``columns``; sizes are in inches.

    ``caption`` is a line under the title.
    """

    draw: Callable[[Any], None]
    caption: str = ""
    width: float = 7.0
    height: float = 4.0
    columns: int = 1


@dataclass(frozen=True, kw_only=True)
class IntervalBar:
    """A figure with its interval."""

    label: str
    middle: float
    low: float
    high: float


def write_chart(chart: Chart, path: Path, *, title: str) -> None:
    """Draw ``chart`` under ``title`` into a PNG file.

    Raises:
        SetupError: matplotlib is not installed.
    """
    with canvas(path, width=chart.width, height=chart.height, columns=chart.columns) as (figure, axes):
        chart.draw(axes)
        figure.suptitle("\n".join(filter(None, (title, chart.caption))), fontsize=10)


def bar_chart(
    labels: Sequence[str],
    series: Mapping[str, Sequence[float | None]],
    *,
    unit: str,
    decimals: int = 0,
    log: bool = False,
    width: float = 7.0,
    caption: str = "",
) -> Chart:
    """A group of bars over each label, a bar for each of the ``series``; where one has None there is no bar."""

    def draw(axes: Any) -> None:
        bar_width = GROUP / len(series)
        for number, (name, values) in enumerate(series.items()):
            offset = (number - (len(series) - 1) / 2) * bar_width
            points = [(index + offset, value) for index, value in enumerate(values) if value is not None]
            bars = axes.bar([place for place, _ in points], [value for _, value in points], bar_width, label=name)
            axes.bar_label(bars, fmt=f"%.{decimals}f", fontsize=8)
        axes.set_xticks(range(len(labels)), labels, fontsize=8)
        axes.set_ylabel(unit)
        if log:
            axes.set_yscale("log")
        if len(series) > 1:
            axes.legend()

    return Chart(draw=draw, width=width, caption=caption)


def interval_chart(bars: Sequence[IntervalBar], *, unit: str, baseline: float | None = None) -> Chart:
    """A point with its interval on a line of its own for each of ``bars``, the first on top."""

    def draw(axes: Any) -> None:
        rows = list(bars)[::-1]
        places = range(len(rows))
        below, above = [bar.middle - bar.low for bar in rows], [bar.high - bar.middle for bar in rows]
        axes.errorbar([bar.middle for bar in rows], places, xerr=[below, above], fmt="o", capsize=3)
        axes.set_yticks(places, [bar.label for bar in rows])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlabel(unit)
        axes.grid(axis="x", alpha=0.3)
        if baseline is not None:
            axes.axvline(baseline, color="grey", linestyle="--", linewidth=1)

    return Chart(draw=draw, height=max(2.0, 1.2 + 0.35 * len(bars)))


def box_chart(samples: Mapping[str, Sequence[float]], *, unit: str, caption: str = "") -> Chart:
    """A box over each label: the quartiles of its samples on a logarithmic scale, with what lies far outside."""

    def draw(axes: Any) -> None:
        axes.boxplot(list(samples.values()), tick_labels=list(samples))
        axes.set_ylabel(unit)
        axes.set_yscale("log")

    return Chart(draw=draw, caption=caption)
