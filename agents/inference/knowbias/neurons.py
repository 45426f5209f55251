"""Bias-knowledge neurons: selects them, keeps them in a file, and checks that they belong to the model.

A neuron counts for a prompt when its attribution is more than ``threshold`` of the prompt's largest, and is kept when
it counts for more than ``share`` of the prompts (KnowBias, arXiv 2601.21864: 0.1 and 49 %).
"""

from collections.abc import Sequence
from pathlib import Path

import mlx.core as mx
import msgspec

from agents.inference.knowbias.gates import GateProjection
from schemas.errors import SetupError

THRESHOLD = 0.1
SHARE = 0.49


class Neurons(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Neurons of one model by the path of their gate, and how they were found.

    ``model_digest`` is of the model's files: the same numbers mean nothing in another model. ``prompts`` is how many
    questions they were found with, ``questions`` the digest of the set.
    """

    model: str
    model_digest: str
    questions: str
    prompts: int
    steps: int
    threshold: float
    share: float
    gates: dict[str, tuple[int, ...]]

    @property
    def count(self) -> int:
        """The number of neurons."""
        return sum(map(len, self.gates.values()))


class NeuronTally:
    """Counts, for each neuron of ``gates``, the prompts for which it matters."""

    def __init__(self, gates: Sequence[GateProjection], *, threshold: float = THRESHOLD) -> None:
        self._gates, self._threshold = tuple(gates), threshold
        self._counts: mx.array | None = None
        self.prompts = 0

    def add(self, attributions: mx.array) -> None:
        """Add one prompt's attributions, (gates, neurons)."""
        matters = (attributions > self._threshold * attributions.max()).astype(mx.int32)
        self._counts = matters if self._counts is None else self._counts + matters
        self.prompts += 1
        mx.eval(self._counts)

    def select_shared(self, share: float = SHARE) -> dict[str, tuple[int, ...]]:
        """The neurons that matter for more than ``share`` of the prompts, by the path of their gate."""
        if self._counts is None:
            return {}
        mask: list[list[bool]] = (self._counts > share * self.prompts).tolist()  # type: ignore[assignment]
        by_gate = {
            gate.path: tuple(index for index, is_shared in enumerate(row) if is_shared)
            for gate, row in zip(self._gates, mask, strict=True)
        }
        return {path: neurons for path, neurons in by_gate.items() if neurons}


def write_neurons(path: Path, neurons: Neurons) -> None:
    """Write ``neurons`` to a file as JSON.

    Raises:
        SetupError: the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(neurons)))
    except OSError as error:
        raise SetupError(f"{path} cannot be written: {error.strerror or error}.", param="knowbias") from error


def read_neurons(path: Path) -> Neurons:
    """The neurons of a file that :func:`write_neurons` wrote.

    Raises:
        SetupError: there is no such file, or it holds something else.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=Neurons)
    except OSError as error:
        raise SetupError(
            f"no neurons at {path} ({error.strerror or error}): 'kiki knowbias probe' finds them.", param="knowbias"
        ) from error
    except msgspec.DecodeError as error:
        raise SetupError(f"{path} holds no neurons ({error}): probe again.", param="knowbias") from error


def check_fit(neurons: Neurons, gates: Sequence[GateProjection], *, model_digest: str) -> Neurons:
    """Return ``neurons`` if they belong to the model with these ``gates`` and this digest.

    Raises:
        SetupError: they belong to another model.
    """
    if neurons.model_digest != model_digest:
        raise SetupError(
            f"the neurons are of {neurons.model} with digest {neurons.model_digest[:12]}, this model has "
            f"{model_digest[:12] or 'none'}: run 'kiki knowbias probe' with this model.",
            param="knowbias",
        )
    widths = {gate.path: gate.width for gate in gates}
    for path, indices in neurons.gates.items():
        if not all(0 <= index < widths.get(path, 0) for index in indices):
            raise SetupError(f"the model has no such neurons in {path}: probe again.", param="knowbias")
    return neurons
