"""What an episode is about, without a language model: key phrases by YAKE (Campos et al., 2020), and how much it says.

YAKE ranks words and pairs of words by position, frequency and neighbouring words in this one text; a short
text takes about a millisecond.
"""

from functools import cache

import yake

from agents.memory.smalltalk import is_small_talk

MOST = 6
"""Concepts of one episode at most."""

TEXT_LIMIT = 2000
"""Characters of question and answer together that are looked at."""

RICH = 40
"""Distinct words from which the word half of :func:`salience` is full."""


def concepts(text: str, *, language: str = "en") -> tuple[str, ...]:
    """Up to :data:`MOST` key phrases in lower case, best first; a phrase contained in an earlier one is left out."""
    if not text.strip() or is_small_talk(text):
        return ()
    names: list[str] = []
    for phrase, _ in _extractor(language).extract_keywords(text[:TEXT_LIMIT]):
        name = " ".join(str(phrase).casefold().split())
        if not any(name in earlier for earlier in names):
            names.append(name)
    return tuple(names[:MOST])


def salience(text: str, phrases: tuple[str, ...]) -> float:
    """How much the text holds that is worth remembering, 0..1: distinct words and concepts in equal parts; small talk
    is 0."""
    if is_small_talk(text):
        return 0.0
    words = {word for word in text.casefold().split() if word.isalnum()}
    return 0.5 * min(1.0, len(words) / RICH) + 0.5 * min(1.0, len(phrases) / MOST)


@cache
def _extractor(language: str) -> yake.KeywordExtractor:
    return yake.KeywordExtractor(lan=language, n=2, top=2 * MOST)
