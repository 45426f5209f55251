"""The router's pictures: the reliability diagram and the confusion matrix."""

from pathlib import Path

import pytest

from agents.router.training.evaluation import measure as figures_of
from runtime.cli.pictures import draw_confusion, draw_reliability


def test_pictures_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    import numpy as np

    scores = np.array([[0.9, 0.1], [0.2, 0.6], [0.7, 0.3], [0.1, 0.2]], dtype=np.float32)
    figures = figures_of(scores, [("rust",), ("sql",), ("sql",), ()], ("rust", "sql"), 0.5)
    assert figures.domains["sql"].confused == {"rust": 1}
    for draw in (draw_reliability, draw_confusion):
        draw(figures, tmp_path / "made" / f"{draw.__name__}.png")
        assert (tmp_path / "made" / f"{draw.__name__}.png").read_bytes().startswith(b"\x89PNG")
