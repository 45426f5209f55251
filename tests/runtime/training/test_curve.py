"""The loss curve: always as JSON, and as a picture where matplotlib is installed."""

import json
import sys
from pathlib import Path

import pytest

from runtime.training.curve import write_curve

LOSSES = [
    {"set": "valid", "iteration": 0, "loss": 2.5},
    {"set": "train", "iteration": 10, "loss": 2.0},
    {"set": "train", "iteration": 20, "loss": 1.5},
    {"set": "test", "iteration": 20, "loss": 1.6},
]


def test_the_losses_are_written_and_the_lack_of_a_picture_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "needs matplotlib" in write_curve(tmp_path, "sql", LOSSES)
    assert json.loads((tmp_path / "losses.json").read_bytes()) == {"domain": "sql", "losses": LOSSES}
    assert not (tmp_path / "losses.png").exists()


def test_the_picture_is_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    assert write_curve(tmp_path, "sql", LOSSES) == ""
    assert (tmp_path / "losses.png").read_bytes().startswith(b"\x89PNG")
