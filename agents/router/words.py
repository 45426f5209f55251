"""A linear model of a prompt's words, beside the embedding: tf-idf of words and of pieces, and one linear layer.

mpnet was trained on English sentences and represents a prompt's general meaning. A technical term, the name of a
function or a French word that occurs in one domain of the corpus is as informative, and the two models err about
different prompts; so their logits are added.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from agents.shared.encoder import Floats
from schemas.errors import SetupError

TOKEN = r"(?u)\b\w+\b|[^\w\s]+"
"""A word, or a run of signs: ``->`` and ``::`` distinguish programming languages."""

PIECES = (3, 5)
"""Least and most characters of a piece: the part of a word that its inflections, compounds and misspellings share."""

MAX_CHARS = 3072
"""How much of a text is read: as much as the embedder's 384 tokens hold at most."""

CACHE_SIZE = 1024
"""Texts whose logits are kept."""

MAX_ITERATIONS = 1000


@dataclass(frozen=True, kw_only=True)
class WordModel:
    """Logits that are linear in two tf-idf vectors of length 1, one of words and one of pieces.

    Attributes:
        words: the words that are counted, sorted.
        pieces: the pieces of words that are counted, sorted.
        idf: ``[words + pieces]``, inverse document frequencies.
        weight: ``[words + pieces, outputs]``.
        bias: ``[outputs]``.
        scale: what the classifier's logits are multiplied by before the logits of this model are added.
    """

    words: tuple[str, ...]
    pieces: tuple[str, ...]
    idf: Floats
    weight: Floats
    bias: Floats
    scale: float = 1.0

    def __post_init__(self) -> None:
        terms = len(self.words) + len(self.pieces)
        if self.idf.shape != (terms,) or self.weight.shape != (terms, len(self.bias)):
            raise SetupError(
                f"the router's words do not fit: {terms} terms, weights of {self.weight.shape}.", param="weights"
            )
        if not all(np.isfinite(numbers).all() for numbers in (self.idf, self.weight, self.bias, self.scale)):
            raise SetupError("the weights of the router's words hold a number that is not finite.", param="weights")

    @cached_property
    def _analysers(self) -> tuple[tuple[Callable[[str], list[str]], dict[str, int]], ...]:
        """The analysers that split a text into words, and into pieces, each with the terms' rows in the weights."""
        word_rows = {term: row for row, term in enumerate(self.words)}
        piece_rows = {term: row for row, term in enumerate(self.pieces, start=len(word_rows))}
        return (_word_counter().build_analyzer(), word_rows), (_piece_counter().build_analyzer(), piece_rows)

    def logits(self, texts: Sequence[str]) -> Floats:
        """``[n, outputs]``, in order."""
        return np.stack([self._cached_logits(text[:MAX_CHARS]) for text in texts])

    @cached_property
    def _cached_logits(self) -> Callable[[str], Floats]:
        return lru_cache(maxsize=CACHE_SIZE)(self._compute_logits)

    def _compute_logits(self, text: str) -> Floats:
        """The same as scikit-learn's transform, which spends 0.7 ms on checks for a text of 60 characters.

        Each of the two tf-idf vectors is scaled to length 1 by itself, as the training does.
        """
        logits = self.bias
        for analyse, rows in self._analysers:
            if counts := Counter(rows[term] for term in analyse(text) if term in rows):
                at = np.fromiter(counts, np.intp)
                tfidf = (1.0 + np.log(np.fromiter(counts.values(), np.float32))) * self.idf[at]
                share: Floats = (tfidf @ self.weight[at] / np.linalg.norm(tfidf)).astype(np.float32)
                logits = logits + share
        return logits


def fit_words(
    texts: Sequence[str], distributions: Floats, weights: Floats, *, least: int, inverse_penalty: float
) -> WordModel:
    """Fit multinomial logistic regression (L2) on the tf-idf of the texts, without random numbers.

    Args:
        distributions: ``[n, outputs + 1]``, rows that sum to 1; the last column is base, whose logit is 0.
        weights: ``[n]``, of each text in the loss.
        least: how many texts must hold a term for it to count.
        inverse_penalty: scikit-learn's ``C``.

    Raises:
        SetupError: the texts are too few to learn from.
    """
    # scikit-learn takes one class for each example, so a text with several classes becomes several weighted examples.
    rows, kinds = distributions.nonzero()
    if len(set(kinds.tolist())) < 3:
        raise SetupError("the corpus has prompts of fewer than three outputs, base among them.", param="corpus")
    beginnings = [text[:MAX_CHARS] for text in texts]
    words, pieces = _word_counter(min_df=least), _piece_counter(min_df=least)
    try:
        counts = sparse.hstack([words.fit_transform(beginnings), pieces.fit_transform(beginnings)], format="csr")
    except ValueError as error:
        raise SetupError(f"no word occurs in {least} prompts of the corpus ({error}).", param="corpus") from error
    model = LogisticRegression(C=inverse_penalty, max_iter=MAX_ITERATIONS)
    model.fit(counts[rows], kinds, sample_weight=distributions[rows, kinds] * weights[rows])
    # Classes without an example in this fold keep a weight of 0 and the least bias.
    weight = np.zeros((counts.shape[1], distributions.shape[1]))
    bias = np.full(distributions.shape[1], model.intercept_.min())
    weight[:, model.classes_], bias[model.classes_] = model.coef_.T, model.intercept_
    return WordModel(
        words=tuple(words.get_feature_names_out().tolist()),
        pieces=tuple(pieces.get_feature_names_out().tolist()),
        idf=np.concatenate([words.idf_, pieces.idf_]),
        weight=(weight[:, :-1] - weight[:, -1:]).astype(np.float32),
        bias=(bias[:-1] - bias[-1]).astype(np.float32),
    )


def _word_counter(**options: Any) -> TfidfVectorizer:
    return _counter(token_pattern=TOKEN, **options)


def _piece_counter(**options: Any) -> TfidfVectorizer:
    return _counter(analyzer="char_wb", ngram_range=PIECES, **options)


def _counter(**options: Any) -> TfidfVectorizer:
    return TfidfVectorizer(strip_accents="unicode", sublinear_tf=True, dtype=np.float32, **options)
