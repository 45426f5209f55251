"""The base with the probes that tell what an adapter makes another one forget, for gates without a worker."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agents.inference.probing.forgetting import ForgettingProbe


def load_forgetting_probe(base: Path, *, name: str, probes: Path | None = None) -> "ForgettingProbe":
    """Load the model in the folder ``base``, called ``name``. ``probes``: JSONL of questions; None: the retained set.

    Raises:
        SetupError: the model or the probes cannot be used.
    """
    from agents.inference.mlx import cpu

    cpu.preload()
    from agents.inference.probing.forgetting import ForgettingProbe
    from agents.inference.settings import InferenceSettings
    from agents.shared.retained import load_retained_set

    settings = InferenceSettings(model=base, model_name=name, cpu_weights="float32")
    return ForgettingProbe(settings, load_retained_set(probes).questions)
