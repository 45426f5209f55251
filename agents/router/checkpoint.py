"""Checkpoints of the router: a folder with ``weights.safetensors`` and ``meta.json``. No other format is read.

There are two kinds. A bare checkpoint is the classifier alone, the four tensors ``0.weight, 0.bias, 3.weight, 3.bias``,
as the earlier micro-kiki of a single process wrote it (``"format": "monolith"``, or no format at all). A checkpoint of
this router (``"format": "micro-kiki-router/1"``) adds the heads of the merged outputs (``niche.<output>.weight`` and
``.bias``) and the word model (``words.*``), and says in ``meta.json`` what it was trained from.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from agents.router.classifier import TENSORS, Classifier, scores_of
from agents.router.niche import NicheHead
from agents.router.words import WordModel
from agents.shared.encoder import Floats
from schemas.errors import SetupError

WEIGHTS = "weights.safetensors"
META = "meta.json"
FORMAT = "micro-kiki-router/1"
BARE_FORMAT = "monolith"
"""The format of a bare checkpoint in ``meta.json``."""

DEFAULT_THRESHOLD = 0.12
"""The gate of a bare checkpoint that names none: the one that the earlier micro-kiki used."""

_WORDS = ("words.words", "words.pieces", "words.idf", "words.weight", "words.bias", "words.scale")
_LABEL_KEYS = ("labels", "domains", "label_names", "classes")


class CheckpointMeta(msgspec.Struct, frozen=True, kw_only=True):
    """The ``meta.json`` of a checkpoint.

    Attributes:
        labels: the outputs in order.
        threshold: calibrated score that opens the gate, chosen on held-out prompts.
        rivalry: what a label's logit loses for each unit that it is behind the best label's (0: nothing).
        bare_threshold: the gate for the classifier without the word model (0: not measured).
        corpus_sha256: digest of the corpus that it was trained from.
        embedder_sha256: digest of the embedder's ``model.safetensors``.
        seed: of the training's random numbers.
        held_out: figures measured on prompts that were not trained on.
        niches: the niche domains of each merged output, in the order of its head.
    """

    format: str = FORMAT
    labels: tuple[str, ...]
    threshold: float
    rivalry: Annotated[float, msgspec.Meta(ge=0.0)] = 0.0
    bare_threshold: float = 0.0
    corpus_sha256: str = ""
    embedder_sha256: str = ""
    seed: int = 0
    held_out: dict[str, float] = {}
    niches: dict[str, tuple[str, ...]] = {}


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A classifier with its gate, the heads of the merged outputs, and the word model, if it has one."""

    classifier: Classifier
    meta: CheckpointMeta
    heads: dict[str, NicheHead] = field(default_factory=dict)
    words: WordModel | None = None

    def scores(self, texts: Sequence[str], embeddings: Floats) -> Floats:
        """``[n, outputs]`` scores in 0..1 of texts and their ``[n, width]`` unit vectors.

        Raises:
            SetupError: the embeddings have another width than the classifier reads.
        """
        logits = self.classifier.logits(embeddings)
        if self.words is not None:
            logits = logits * np.float32(self.words.scale) + self.words.logits(texts)
        return scores_of(logits, rivalry=self.meta.rivalry)


def save_checkpoint(checkpoint: Checkpoint, folder: Path) -> None:
    """Write both files; the same checkpoint gives the same bytes."""
    tensors = {name: checkpoint.classifier.tensors[name].contiguous() for name in TENSORS}
    for output, head in checkpoint.heads.items():
        tensors[f"niche.{output}.weight"] = head.weight.contiguous()
        tensors[f"niche.{output}.bias"] = head.bias.contiguous()
    if checkpoint.words is not None:
        tensors |= _tensors_of(checkpoint.words)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / WEIGHTS).write_bytes(save(tensors))
    text = json.dumps(msgspec.to_builtins(checkpoint.meta), indent=2, ensure_ascii=False)
    (folder / META).write_text(text + "\n", encoding="utf-8")


def load_shipped() -> Checkpoint:
    """The checkpoint of ``configs/router``."""
    with as_file(files("configs").joinpath("router")) as folder:
        return load_checkpoint(folder)


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint of either kind.

    Raises:
        SetupError: a file is missing or broken, or layers and labels do not fit together.
    """
    meta = _read_meta(folder)
    path = folder / WEIGHTS if (folder / WEIGHTS).exists() else _find_weights(folder)
    try:
        tensors = load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise SetupError(f"{path} is no safetensors file ({error}).", param="checkpoint") from error
    words = _read_words(tensors, len(meta.labels)) if "words.weight" in tensors else None
    tensors = {name: tensor.to(torch.float32) for name, tensor in tensors.items() if not name.startswith("words.")}
    heads = {output: _read_head(tensors, output, names) for output, names in meta.niches.items()}
    return Checkpoint(classifier=Classifier(tensors=tensors, labels=meta.labels), meta=meta, heads=heads, words=words)


def _tensors_of(words: WordModel) -> dict[str, torch.Tensor]:
    """The word model as tensors: the terms in UTF-8, separated by line ends, the weights in half precision."""
    return {
        "words.words": _bytes_of(words.words),
        "words.pieces": _bytes_of(words.pieces),
        "words.idf": torch.from_numpy(words.idf),
        "words.weight": torch.from_numpy(words.weight).half().contiguous(),
        "words.bias": torch.from_numpy(words.bias),
        "words.scale": torch.tensor(words.scale),
    }


def _bytes_of(terms: Sequence[str]) -> torch.Tensor:
    return torch.frombuffer(bytearray("\n".join(terms).encode()), dtype=torch.uint8)


def _read_words(tensors: dict[str, torch.Tensor], outputs: int) -> WordModel:
    """The word model of a checkpoint.

    Raises:
        SetupError: a tensor is missing, or the tensors do not fit together.
    """
    missing = [name for name in _WORDS if name not in tensors]
    if missing:
        raise SetupError(f"the checkpoint's words lack '{missing[0]}': expected {', '.join(_WORDS)}.", param="weights")
    try:
        words, pieces = (bytes(tensors[name].numpy()).decode().split("\n") for name in ("words.words", "words.pieces"))
        scale = tensors["words.scale"].item()
    except (ValueError, RuntimeError) as error:
        raise SetupError(f"the checkpoint's words cannot be read ({error}).", param="weights") from error
    idf, weight, bias = (tensors[name].float().numpy() for name in ("words.idf", "words.weight", "words.bias"))
    if bias.shape != (outputs,):
        raise SetupError(f"the router's words have {bias.size} outputs and {outputs} labels.", param="labels")
    return WordModel(words=tuple(words), pieces=tuple(pieces), idf=idf, weight=weight, bias=bias, scale=scale)


def _read_head(tensors: dict[str, torch.Tensor], output: str, names: tuple[str, ...]) -> NicheHead:
    weight, bias = tensors.get(f"niche.{output}.weight"), tensors.get(f"niche.{output}.bias")
    if weight is None or bias is None or weight.shape[0] != len(names) or bias.shape != (len(names),):
        raise SetupError(f"the checkpoint has no head for the {len(names)} niches of '{output}'.", param="checkpoint")
    return NicheHead(names=names, weight=weight, bias=bias)


def _find_weights(folder: Path) -> Path:
    weight_files = sorted(folder.glob("*.safetensors"))
    if len(weight_files) != 1:
        raise SetupError(
            f"{folder} holds {len(weight_files)} safetensors files, expected {WEIGHTS}; pickles are not read.",
            param="checkpoint",
        )
    return weight_files[0]


def _read_meta(folder: Path) -> CheckpointMeta:
    path = folder / META
    try:
        document: Any = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SetupError(f"{path} cannot be read ({error}).", param="checkpoint") from error
    if not isinstance(document, dict):
        raise SetupError(f"{path} must hold an object.", param="checkpoint")
    if document.get("format") == FORMAT:
        try:
            return msgspec.convert(document, CheckpointMeta)
        except msgspec.DecodeError as error:
            raise SetupError(f"{path}: {error}.", param="checkpoint") from error
    return CheckpointMeta(
        format=BARE_FORMAT, labels=_read_labels(document, path), threshold=_read_threshold(document, path)
    )


def _read_labels(document: dict[str, Any], path: Path) -> tuple[str, ...]:
    for key in _LABEL_KEYS:
        if isinstance(names := document.get(key), list) and names and all(isinstance(name, str) for name in names):
            return tuple(names)
    raise SetupError(f"{path} names no labels: expected a list under one of {', '.join(_LABEL_KEYS)}.", param="labels")


def _read_threshold(document: dict[str, Any], path: Path) -> float:
    threshold = document.get("threshold", DEFAULT_THRESHOLD)
    if not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise SetupError(f"{path}: threshold must be in 0..1.", param="threshold")
    return float(threshold)
