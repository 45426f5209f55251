"""Words of a text as BM25 sees them: tokens, stop words and Snowball stems by qdrant-edge's own encoder.

The same encoder serves both stores, so that a Qdrant server needs no inference service. The IDF is left to the
store.
"""

from collections.abc import Iterable, Mapping

import qdrant_edge as qdrant

SATURATION = 0.9
"""BM25's k1, and LENGTH its b: the values of Anserini, which suit short texts."""

LENGTH = 0.4
USUAL_LENGTH = 32.0
"""BM25's average length, in words with the neighbours' share; only its ratio to a document's length matters."""

Counts = dict[int, float]
"""How often each word (as the encoder's hash) occurs; a fraction for words of the neighbours."""


class WordEncoder:
    """Counts the words of a text, with the stop words and stems of one language."""

    def __init__(self, language: str = "english") -> None:
        self._encoder = qdrant.Bm25(qdrant.Bm25Config(language=language, k=1.0, b=0.0, avg_len=1.0))

    def counts(self, text: str) -> Counts:
        """How often each word occurs; stop words do not count."""
        vector = self._encoder.embed_document(text)
        # With k1 = 1 and b = 0 a word's weight is 2c / (c + 1) for c occurrences.
        return {
            word: float(round(weight / (2.0 - weight)))
            for word, weight in zip(vector.indices, vector.values, strict=True)
        }

    def query_words(self, text: str) -> tuple[int, ...]:
        """The distinct words of a query."""
        return tuple(self._encoder.embed_query(text).indices)


def weighted_sum(parts: Iterable[tuple[float, Mapping[int, float]]]) -> Counts:
    """Weighted sum of counts."""
    total: Counts = {}
    for weight, counts in parts:
        for word, count in counts.items():
            total[word] = total.get(word, 0.0) + weight * count
    return total


def bm25_weights(counts: Mapping[int, float]) -> Counts:
    """BM25's weight of each word in a document, without its IDF."""
    length = sum(counts.values())
    norm = SATURATION * (1.0 - LENGTH + LENGTH * length / USUAL_LENGTH)
    return {word: count * (SATURATION + 1.0) / (count + norm) for word, count in counts.items()}


def coverage(query_words: Iterable[int], counts: Mapping[int, float]) -> float:
    """Share of the query's words that the text contains, 0..1; 0 for a query without words."""
    words = tuple(query_words)
    return sum(word in counts for word in words) / len(words) if words else 0.0
