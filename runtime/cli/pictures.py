"""Pictures of the router's and the adapters' figures, written as PNG."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.canvas import canvas

if TYPE_CHECKING:
    from agents.router.training.evaluation import RouterFigures  # it imports torch, which no other verb should wait for


def draw_reliability(figures: "RouterFigures", path: Path) -> None:
    """Draw how often the first domain is right, by its score; a calibrated score lies on the diagonal."""
    with canvas(path, width=6, height=5) as (_, axes):
        axes.plot([0, 1], [0, 1], color="grey", linestyle="--", linewidth=1, label="calibrated")
        bins = figures.reliability
        shares = [part.prompts / sum(each.prompts for each in bins) for part in bins]
        axes.bar([part.score for part in bins], shares, 0.04, color="tab:orange", alpha=0.4, label="share of prompts")
        axes.plot([part.score for part in bins], [part.right for part in bins], marker="o", label="first domain right")
        axes.axvline(figures.threshold, color="tab:red", linewidth=1, label=f"gate {figures.threshold:.3f}")
        axes.set_xlabel("score of the first domain")
        axes.set_ylabel("share")
        axes.set_title(f"reliability: ECE {figures.ece:.3f}, {figures.prompts + figures.base_prompts} prompts")
        axes.legend()


def draw_confusion(figures: "RouterFigures", path: Path) -> None:
    """Draw a matrix over prompts with one label: row the right domain, column the first one, percent of the row."""
    names = list(figures.domains)
    percent = [[_percent(figures, right, first) for first in names] for right in names]
    with canvas(path, width=12, height=11) as (figure, axes):
        image = axes.imshow(percent, cmap="Blues", vmin=0, vmax=100)
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
        axes.set_xlabel("came first")
        axes.set_ylabel("is right")
        for row, cells in enumerate(percent):
            for column, value in enumerate(cells):
                if value >= 0.5:
                    shade = "white" if value > 50 else "black"
                    axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=7, color=shade)
        figure.colorbar(image, ax=axes, shrink=0.7, label="% of the row")
        axes.set_title(
            f"first domain, {sum(domain.prompts for domain in figures.domains.values())} prompts with one label"
        )


def _percent(figures: "RouterFigures", right: str, first: str) -> float:
    domain = figures.domains[right]
    wrong = sum(domain.confused.values())
    count = domain.prompts - wrong if first == right else domain.confused.get(first, 0)
    return 100.0 * count / domain.prompts


def draw_angles(names: Sequence[str], angles: Mapping[tuple[int, int], float], path: Path, *, limit: float) -> None:
    """Draw the smallest angle between each two adapters; ``angles`` by two places in ``names``, the smaller first.

    Those under ``limit`` have a red frame.
    """
    count, side = len(names), max(4.0, 0.35 * len(names) + 2.5)
    degrees = [[90.0 if i == j else angles[min(i, j), max(i, j)] for j in range(count)] for i in range(count)]
    with canvas(path, width=side + 1, height=side) as (figure, axes):
        image = axes.imshow(degrees, cmap="viridis", vmin=0, vmax=90)
        axes.set_xticks(range(count), names, rotation=90)
        axes.set_yticks(range(count), names)
        for row, cells in enumerate(degrees):
            for column, value in enumerate(cells):
                if row == column:
                    axes.text(column, row, "-", ha="center", va="center", fontsize=7)
                    continue
                shade = "white" if value < 60 else "black"
                axes.text(column, row, f"{value:.0f}", ha="center", va="center", fontsize=7, color=shade)
                if value < limit:
                    corner = column - 0.5, row - 0.5
                    axes.add_patch(_rectangle(corner))
        figure.colorbar(image, ax=axes, shrink=0.7, label="degrees")
        axes.set_title(f"smallest angle of any module; framed: under {limit:.0f}")


def _rectangle(corner: tuple[float, float]) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(corner, 1, 1, fill=False, edgecolor="tab:red", linewidth=2)
