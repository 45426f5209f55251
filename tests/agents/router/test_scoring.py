"""Whatever a checkpoint's labels are, all 35 niche domains stay reachable."""

import numpy as np
import pytest
import torch

from agents.router.checkpoint import Checkpoint, CheckpointMeta, load_shipped
from agents.router.classifier import Classifier
from agents.router.scoring import Scorer
from agents.router.training.corpus import load_corpus
from agents.shared.domains import load_taxonomy
from schemas.errors import SetupError

TAXONOMY = load_taxonomy()


def make_lookup_checkpoint(labels: tuple[str, ...], *, width: int = 40) -> Checkpoint:
    """A checkpoint whose output ``i`` looks at entry ``i`` of the embedding alone."""
    tensors = {
        "0.weight": torch.eye(width),
        "0.bias": torch.zeros(width),
        "3.weight": 8.0 * torch.eye(len(labels), width),
        "3.bias": torch.full((len(labels),), -3.0),
    }
    return Checkpoint(
        classifier=Classifier(tensors=tensors, labels=labels), meta=CheckpointMeta(labels=labels, threshold=0.5)
    )


def test_a_checkpoint_with_35_labels_chooses_by_its_own_scores() -> None:
    scorer = Scorer(make_lookup_checkpoint(TAXONOMY.niches), TAXONOMY)
    for place, niche in enumerate(TAXONOMY.niches):
        scores = scorer.score([""], np.eye(1, 40, place, dtype=np.float32))[0]
        best = max(scores.outputs, key=lambda name: scores.outputs[name])
        assert (best, scores.niche(best)) == (TAXONOMY.output_of(niche), niche)
        assert len(scores.outputs) == 31


def test_a_checkpoint_without_heads_borrows_the_shipped_ones_of_its_width() -> None:
    embedding = np.random.default_rng(0).normal(size=(1, 768)).astype(np.float32)
    borrowed = Scorer(make_lookup_checkpoint(TAXONOMY.outputs, width=768), TAXONOMY).score([""], embedding)[0]
    shipped = Scorer(load_shipped(), TAXONOMY).score([""], embedding)[0]
    assert {name: borrowed.inside[name] for name in TAXONOMY.merged} == {
        name: shipped.inside[name] for name in TAXONOMY.merged
    }
    narrow = Scorer(make_lookup_checkpoint(TAXONOMY.outputs), TAXONOMY).score([""], embedding[:, :40])[0]
    assert narrow.niche("electronics-hw") == "components"
    assert narrow.niche("electronics-hw", allowed=("power",)) == "power"


def test_the_shipped_heads_reach_every_niche() -> None:
    heads, corpus_labels = load_shipped().heads, {example.labels for example in load_corpus().examples}
    for output, niches in TAXONOMY.merged.items():
        assert heads[output].names == niches
        assert all((niche,) in corpus_labels for niche in niches)


def test_an_unknown_label_is_named() -> None:
    with pytest.raises(SetupError, match="no domain 'cobol'"):
        Scorer(make_lookup_checkpoint(("rust", "cobol")), TAXONOMY)
