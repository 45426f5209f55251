"""The loss curve of a training: ``losses.json`` beside the adapter, ``losses.png`` where matplotlib is installed."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from runtime.canvas import canvas
from schemas.errors import SetupError


def write_curve(folder: Path, domain: str, losses: Sequence[Mapping[str, Any]]) -> str:
    """Write both files into ``folder``. Returns why there is no picture; empty when there is one.

    Raises:
        OSError: they cannot be written.
    """
    (folder / "losses.json").write_text(json.dumps({"domain": domain, "losses": list(losses)}, indent=1))
    try:
        draw_losses(losses, folder / "losses.png", title=domain)
    except SetupError as error:
        return error.message
    return ""


def draw_losses(losses: Sequence[Mapping[str, Any]], path: Path, *, title: str) -> None:
    """Draw the losses of ``train``, ``valid`` and ``test`` over the iterations.

    Raises:
        SetupError: matplotlib is not installed.
    """
    with canvas(path, width=7, height=4) as (_, axes):
        styles: dict[str, dict[str, Any]] = {
            "train": {"color": "tab:blue", "linewidth": 1.2},
            "valid": {"color": "tab:orange", "marker": "o"},
        }
        for name in ("train", "valid", "test"):
            points = [(loss["iteration"], loss["loss"]) for loss in losses if loss["set"] == name]
            if points:
                style = styles.get(name, {"color": "tab:green", "marker": "s", "linestyle": "none"})
                axes.plot(*zip(*points, strict=True), label=f"{name} ({points[-1][1]:.3f} at the end)", **style)
        axes.set_xlabel("iteration")
        axes.set_ylabel("loss (nats per token)")
        axes.set_ylim(bottom=0)
        axes.set_title(f"training of {title}")
        axes.grid(alpha=0.3)
        axes.legend()
