"""What rounding to int8 costs the default model, on a few texts of this project: ``kiki bench fidelity`` reads more."""

from pathlib import Path

import pytest

from agents.inference.probing.fidelity import ALL, measure_fidelity
from agents.inference.settings import InferenceSettings
from runtime.models import prepare
from runtime.settings import DEFAULT_MODEL

ROOT = Path(__file__).parents[4]


@pytest.mark.timeout(400)
def test_int8_keeps_the_default_models_perplexity_and_choices() -> None:
    settings = InferenceSettings(model=prepare(DEFAULT_MODEL), model_name=DEFAULT_MODEL)
    texts = {
        "documents": [(ROOT / "docs" / "guarantees.md").read_text()],
        "code": [(ROOT / "agents" / "router" / "selection.py").read_text()],
    }
    figures = {fidelity.kind: fidelity for fidelity in measure_fidelity(settings, texts, tokens=620)}
    assert figures[ALL].tokens >= 600
    assert abs(figures[ALL].ratio - 1) < 0.01
    assert figures[ALL].agreement >= 0.96
