"""Training is reproducible to the byte and learns; the gate and the figures are what they say."""

from pathlib import Path

import numpy as np
import pytest

from agents.router.checkpoint import META, WEIGHTS, load_checkpoint, save_checkpoint
from agents.router.niche import shares
from agents.router.scoring import OutputScores
from agents.router.training.corpus import Corpus, CorpusExample
from agents.router.training.evaluation import measure, niche_figures, read_labelled_prompts, report
from agents.router.training.train import TrainingSettings, fit, gate, relatives
from agents.shared.domains import load_taxonomy
from agents.shared.encoder import Floats
from schemas.errors import InvalidInput

TINY = TrainingSettings(hidden=64, epochs=60, batch=32, rate=1e-3, noise=0.2, folds=3)


def make_clusters(*, width: int = 48, each: int = 12) -> tuple[Corpus, Floats]:
    """A corpus whose domains are well-separated directions, and base another; no two prompts are relatives."""
    draw = np.random.default_rng(3)
    examples: list[CorpusExample] = []
    rows = []
    for kind in (*load_taxonomy().niches, "base"):
        centre = draw.normal(size=width)
        for number in range(each):
            examples.append(CorpusExample(prompt=f"{kind} {number}", labels=() if kind == "base" else (kind,)))
            rows.append(centre + 0.8 * draw.normal(size=width))
    vectors = np.array(rows, dtype=np.float32)
    return Corpus(tuple(examples)), vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_the_same_corpus_gives_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    corpus, vectors = make_clusters()
    for name, seed in (("one", 0), ("two", 0), ("three", 1)):
        settings = TrainingSettings(hidden=16, epochs=2, batch=32, folds=2, seed=seed)
        save_checkpoint(fit(corpus, vectors, embedder_sha256="e", settings=settings)[0], tmp_path / name)
    for file in (WEIGHTS, META):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert (tmp_path / "one" / WEIGHTS).read_bytes() != (tmp_path / "three" / WEIGHTS).read_bytes()


def test_training_learns_well_separated_domains(tmp_path: Path) -> None:
    corpus, vectors = make_clusters()
    checkpoint, figures = fit(corpus, vectors, embedder_sha256="e", settings=TINY)
    assert figures.top1 > 0.95
    assert figures.coverage > 0.9
    assert figures.false_activation <= TINY.false_activation
    assert checkpoint.meta.corpus_sha256 == corpus.digest()
    assert sum(bar.prompts for bar in figures.reliability) == len(corpus.examples)
    save_checkpoint(checkpoint, tmp_path)
    heads = load_checkpoint(tmp_path).heads
    for example, vector in zip(corpus.examples, vectors, strict=True):
        for output, niches in load_taxonomy().merged.items():
            if set(example.labels) & set(niches):
                inside = shares(heads, vector)[output]
                assert max(inside, key=lambda name: inside[name]) == example.labels[0]


def test_the_gate_lets_the_asked_share_of_base_through() -> None:
    scores = np.linspace(0.00005, 0.99005, 100, dtype=np.float32)[:, None]
    threshold = gate(scores, 0.04)
    assert (scores[:, 0] >= threshold).sum() == 4
    assert (scores[:, 0] >= gate(scores, 0.0)).sum() == 0


def test_figures_by_hand() -> None:
    scores = np.array([[0.9, 0.1, 0.0], [0.6, 0.3, 0.1], [0.2, 0.1, 0.1], [0.8, 0.0, 0.0]], dtype=np.float32)
    figures = measure(scores, [("a",), ("b",), ("c",), ()], ("a", "b", "c"), 0.5)
    assert (figures.prompts, figures.base_prompts) == (3, 1)
    assert figures.top1 == pytest.approx(1 / 3)
    assert figures.top3 == 1.0
    assert figures.coverage == pytest.approx(2 / 3)
    assert figures.false_activation == 1.0
    assert figures.gated_top1 == figures.gated_top3 == pytest.approx(1 / 3)
    assert figures.passing == pytest.approx(2 / 3)
    assert figures.domains["b"].confused == {"a": 1}
    assert figures.ece == pytest.approx((0.1 + 0.6 + 0.2 + 0.8) / 4, abs=1e-6)
    assert "| b | 1 | 0% | 100% | 100% | a 1 |" in report(figures)


def test_gate_figures_of_prompts_with_several_labels_by_hand() -> None:
    scores = np.array([[0.9, 0.6, 0.1], [0.6, 0.8, 0.7], [0.9, 0.0, 0.0]], dtype=np.float32)
    figures = measure(scores, [("a", "b"), ("a", "c"), ("b",)], ("a", "b", "c"), 0.5)
    assert figures.several_recall == 1.0
    assert figures.several_precision == pytest.approx(4 / 5)
    assert figures.gated_top3 == pytest.approx(2 / 3)
    assert figures.passing == 2.0
    assert "| 2 prompts with several labels | 100.0% of the labels pass, 80.0% of what passes is right |" in report(
        figures
    )
    assert "several" not in report(measure(scores, [("a",), ("b",), ()], ("a", "b", "c"), 0.5))


def test_labelled_prompts_are_read_in_both_forms(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "x", "domain": "power"}\n{"prompt": "y", "labels": ["spice", "spice-sim"]}\n')
    assert read_labelled_prompts(path) == (["x", "y"], [("power",), ("spice", "spice-sim")])
    path.write_text('{"prompt": "x"}\n')
    with pytest.raises(InvalidInput, match="line 1"):
        read_labelled_prompts(path)


def test_niches_are_judged_inside_their_output() -> None:
    taxonomy = load_taxonomy()
    inside = {"electronics-hw": {"components": 0.2, "electronics": 0.1, "power": 0.7}, "kicad": {"kicad-pcb": 1.0}}
    results = [OutputScores({}, inside)] * 4
    figures = niche_figures(results, [("power",), ("components",), ("power", "emc"), ("rust",)], taxonomy)
    assert {name: (entry.prompts, entry.right) for name, entry in figures.items()} == {
        "components": (1, 0.0),
        "power": (1, 1.0),
    }


def test_relatives_are_joined_by_chains() -> None:
    degrees = np.radians([0, 30, 60, 180, 200, 90])
    vectors = np.stack([np.cos(degrees), np.sin(degrees)], axis=1).astype(np.float32)
    families = relatives(vectors, near=0.85)
    assert families == [0, 0, 0, 3, 3, 0]
    assert relatives(vectors, near=0.99) == [0, 1, 2, 3, 4, 5]
