"""Checkpoints: ours and the monolith's, read and written; what is broken is refused by name."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from agents.router.checkpoint import WEIGHTS, Checkpoint, CheckpointMeta, load_checkpoint, load_shipped, save_checkpoint
from agents.router.classifier import Classifier, logits_of, scores_of
from agents.router.niche import NicheHead
from agents.router.training.corpus import load_corpus
from agents.router.training.train import export
from agents.shared.domains import load_taxonomy
from schemas.errors import SetupError


def make_tensors(*, width: int = 6, hidden: int = 5, outputs: int = 3) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(1)
    return {
        "0.weight": torch.randn(hidden, width, generator=draw),
        "0.bias": torch.randn(hidden, generator=draw),
        "3.weight": torch.randn(outputs, hidden, generator=draw),
        "3.bias": torch.randn(outputs, generator=draw),
    }


def write_monolith(folder: Path, weights: dict[str, torch.Tensor], meta: object) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(weights, folder / WEIGHTS)
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


def test_a_checkpoint_survives_a_round_trip(tmp_path: Path) -> None:
    labels = ("a", "b", "c")
    head = NicheHead(names=("x", "y"), weight=torch.ones(2, 6), bias=torch.zeros(2))
    meta = CheckpointMeta(
        labels=labels, threshold=0.3, corpus_sha256="c", niches={"a": ("x", "y")}, held_out={"top1": 0.5}
    )
    before = Checkpoint(classifier=Classifier(tensors=make_tensors(), labels=labels), meta=meta, heads={"a": head})
    save_checkpoint(before, tmp_path / "one")
    after = load_checkpoint(tmp_path / "one")
    save_checkpoint(after, tmp_path / "two")
    assert after.meta == meta
    assert (tmp_path / "one" / WEIGHTS).read_bytes() == (tmp_path / "two" / WEIGHTS).read_bytes()
    vectors = np.eye(6, dtype=np.float32)
    assert np.array_equal(before.classifier.logits(vectors), after.classifier.logits(vectors))
    assert np.array_equal(head.probabilities(vectors), after.heads["a"].probabilities(vectors))


@pytest.mark.parametrize("outputs", [31, 35])
def test_the_monolith_format_is_served_with_the_activation_of_its_training(tmp_path: Path, outputs: int) -> None:
    weights = make_tensors(width=12, hidden=7, outputs=outputs)
    labels = [f"d{index}" for index in range(outputs)]
    checkpoint = load_checkpoint(write_monolith(tmp_path / "m", weights, {"labels": labels, "input_dim": 12}))
    vectors = np.random.default_rng(0).normal(size=(4, 12)).astype(np.float32)
    w0, b0, w3, b3 = (weights[name].numpy().astype(np.float64) for name in ("0.weight", "0.bias", "3.weight", "3.bias"))
    hidden = vectors @ w0.T + b0
    hidden = 0.5 * hidden * (1.0 + np.vectorize(math.erf)(hidden / math.sqrt(2.0)))
    scores = checkpoint.scores([""] * 4, vectors)
    assert scores == pytest.approx(1.0 / (1.0 + np.exp(-(hidden @ w3.T + b3))), abs=1e-5)
    assert (checkpoint.meta.threshold, checkpoint.heads) == (0.12, {})


def test_a_label_behind_the_best_one_scores_less_and_keeps_its_place() -> None:
    logits = np.array([[2.0, 1.0, -1.0], [-3.0, -2.0, -4.0]], dtype=np.float32)
    alone, rivals = scores_of(logits), scores_of(logits, rivalry=0.5)
    assert alone == pytest.approx(1 / (1 + np.exp(-logits)), abs=1e-6)
    assert rivals == pytest.approx(1 / (1 + np.exp(-np.array([[2.0, 0.5, -2.5], [-3.5, -2.0, -5.0]]))), abs=1e-6)
    assert np.array_equal(np.argsort(rivals), np.argsort(alone))


def test_a_checkpoint_scores_with_its_rivalry(tmp_path: Path) -> None:
    labels = ("a", "b", "c")
    plain = Checkpoint(
        classifier=Classifier(tensors=make_tensors(), labels=labels), meta=CheckpointMeta(labels=labels, threshold=0.3)
    )
    rival = replace(plain, meta=CheckpointMeta(labels=labels, threshold=0.3, rivalry=0.5))
    save_checkpoint(rival, tmp_path)
    vectors = np.eye(6, dtype=np.float32)
    scores = load_checkpoint(tmp_path).scores([""] * 6, vectors)
    assert np.array_equal(scores, scores_of(plain.classifier.logits(vectors), rivalry=0.5))
    assert not np.array_equal(scores, plain.scores([""] * 6, vectors))
    meta = json.loads((tmp_path / "meta.json").read_text())
    (tmp_path / "meta.json").write_text(json.dumps({**meta, "rivalry": -1}))
    with pytest.raises(SetupError, match="rivalry"):
        load_checkpoint(tmp_path)


def test_serving_gives_the_logits_of_training() -> None:
    classifier = load_shipped().classifier
    vectors = np.random.default_rng(0).normal(size=(64, 768)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = logits_of(classifier.tensors, torch.from_numpy(vectors)).numpy()
    assert classifier.logits(vectors) == pytest.approx(expected, abs=1e-4)
    assert np.abs(expected).max() > 1.0


def test_weights_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    good, three = make_tensors(), {"labels": ["a", "b", "c"]}
    infinite = {**good, "3.bias": torch.tensor([0.0, float("nan"), 0.0])}
    for name, weights, meta, why in (
        ("labels", good, {"labels": ["a"]}, "3 outputs and 1 labels"),
        ("missing", {name: good[name] for name in ("0.weight", "0.bias")}, three, "lack '3.weight'"),
        ("layers", {**good, "3.weight": torch.ones(3, 4)}, three, "do not fit"),
        ("finite", infinite, three, "not finite"),
        ("threshold", good, {**three, "threshold": 7}, "threshold"),
        ("none", good, {"threshold": 0.1}, "names no labels"),
        ("list", good, [], "must hold an object"),
    ):
        with pytest.raises(SetupError, match=why):
            load_checkpoint(write_monolith(tmp_path / name, weights, meta))


def test_pickles_and_broken_files_are_not_read(tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text('{"labels": ["a"]}')
    torch.save(make_tensors(), tmp_path / "weights.pt")
    with pytest.raises(SetupError, match="pickles are not read"):
        load_checkpoint(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(b"half")
    with pytest.raises(SetupError, match="no safetensors"):
        load_checkpoint(tmp_path)


def test_another_width_of_embedding_is_refused() -> None:
    with pytest.raises(SetupError, match="width 768, the embedder gives 384"):
        load_shipped().scores([""], np.zeros((1, 384), dtype=np.float32))


def test_shipped_weights_are_not_stale() -> None:
    meta = load_shipped().meta
    assert meta.corpus_sha256 == load_corpus().digest(), "the corpus changed: run 'kiki router train'"
    assert meta.labels == load_taxonomy().outputs
    assert meta.niches == load_taxonomy().merged


def test_export_is_the_monolith_format(tmp_path: Path) -> None:
    export(out=tmp_path)
    checkpoint, shipped = load_checkpoint(tmp_path), load_shipped()
    assert (checkpoint.meta.labels, checkpoint.meta.threshold) == (shipped.meta.labels, shipped.meta.bare_threshold)
    assert checkpoint.words is None
    vectors = np.eye(2, 768, dtype=np.float32)
    assert np.array_equal(checkpoint.classifier.logits(vectors), shipped.classifier.logits(vectors))
