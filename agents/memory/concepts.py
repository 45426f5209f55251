"""What an episode is about, without a language model: key phrases by YAKE (Campos et al., 2020), and how much it says.

YAKE ranks words and pairs by where and how they stand in the one text at hand; about a millisecond for a short one.
"""

from functools import cache

import yake

from agents.memory.smalltalk import is_small_talk

MOST = 6
"""Concepts of one episode."""

TEXT_LIMIT = 2000
"""Characters of question and answer together that are looked at."""

RICH = 40
"""Distinct words from which an episode counts as rich."""


def concepts(text: str, *, language: str = "en") -> tuple[str, ...]:
    """Up to :data:`MOST` key phrases in lower case, the most telling first; a phrase that holds another wins."""
    if not text.strip() or is_small_talk(text):
        return ()
    names: list[str] = []
    for phrase, _ in _extractor(language).extract_keywords(text[:TEXT_LIMIT]):
        name = " ".join(str(phrase).casefold().split())
        if not any(name in earlier for earlier in names):
            names.append(name)
    return tuple(names[:MOST])


def salience(text: str, phrases: tuple[str, ...]) -> float:
    """How much there is to remember, 0..1: distinct words and concepts in equal parts; small talk is 0."""
    if is_small_talk(text):
        return 0.0
    words = {word for word in text.casefold().split() if word.isalnum()}
    return 0.5 * min(1.0, len(words) / RICH) + 0.5 * min(1.0, len(phrases) / MOST)


@cache
def _extractor(language: str) -> yake.KeywordExtractor:
    return yake.KeywordExtractor(lan=language, n=2, top=2 * MOST)
