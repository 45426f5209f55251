"""Scoring with a checkpoint: from embeddings and words to scores by router output, and the niche domain meant in each.

The labels of a checkpoint are the 31 outputs or the 35 niche domains. Inside a merged output, a checkpoint with niche
domains chooses by their own scores, and one with outputs by its heads. A bare checkpoint has no heads: it borrows those
of the shipped checkpoint when both read embeddings of the same width.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from agents.router.checkpoint import Checkpoint, load_shipped
from agents.router.niche import NicheHead, shares
from agents.router.selection import niche_of
from agents.shared.domains import Taxonomy
from agents.shared.encoder import Floats
from bus import metrics


@dataclass(frozen=True)
class OutputScores:
    """One prompt's calibrated scores by output, and (``inside``) each output's shares by niche domain."""

    outputs: dict[str, float]
    inside: dict[str, dict[str, float]]

    def niche(self, output: str, *, allowed: Collection[str] = ()) -> str:
        """The niche domain of ``output`` that is meant, among ``allowed`` when that names any of them."""
        return niche_of(self.inside.get(output) or {output: 1.0}, allowed=allowed)


class Scorer:
    """Scores embeddings with one checkpoint.

    Raises:
        SetupError: the checkpoint names a domain that does not exist.
    """

    def __init__(self, checkpoint: Checkpoint, taxonomy: Taxonomy) -> None:
        self.checkpoint = checkpoint
        self._taxonomy = taxonomy
        self._outputs = tuple(taxonomy.output_of(label) for label in checkpoint.meta.labels)
        self._heads = _choose_heads(checkpoint, taxonomy)

    def count_words(self, texts: Sequence[str]) -> None:
        """Score the texts' words ahead of :meth:`score`, which then finds the result in a cache."""
        if self.checkpoint.words is not None:
            self.checkpoint.words.logits(texts)

    def score(self, texts: Sequence[str], vectors: Floats) -> list[OutputScores]:
        """The scores of each text; ``vectors`` are the texts' ``[n, width]`` unit vectors."""
        rows = self.checkpoint.scores(texts, vectors)
        return [self._score_row(row, vector) for row, vector in zip(rows, vectors, strict=True)]

    def _score_row(self, row: Floats, vector: Floats) -> OutputScores:
        outputs: dict[str, float] = {}
        by_label = dict(zip(self.checkpoint.meta.labels, row.tolist(), strict=True))
        for output, score in zip(self._outputs, row.tolist(), strict=True):
            outputs[output] = max(outputs.get(output, 0.0), score)
        inside = shares(self._heads, vector)
        for output, niches in self._taxonomy.merged.items():
            if all(niche in by_label for niche in niches):
                inside[output] = {niche: by_label[niche] for niche in niches}
        return OutputScores(outputs, {**self._even_shares(), **inside})

    def _even_shares(self) -> dict[str, dict[str, float]]:
        return {output: dict.fromkeys(niches, 1.0) for output, niches in self._taxonomy.members.items()}


def _choose_heads(checkpoint: Checkpoint, taxonomy: Taxonomy) -> dict[str, NicheHead]:
    missing = set(taxonomy.merged) - set(checkpoint.heads)
    labels = set(checkpoint.meta.labels)
    if not missing or all(set(niches) <= labels for niches in taxonomy.merged.values()):
        return checkpoint.heads
    shipped = load_shipped()
    if shipped.classifier.width != checkpoint.classifier.width:
        metrics.count_degraded("router.niche", f"the checkpoint has no heads for {', '.join(sorted(missing))}")
        return checkpoint.heads
    return {**shipped.heads, **checkpoint.heads}
