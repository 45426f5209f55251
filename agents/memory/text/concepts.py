"""What an episode is about, without a language model: its key phrases, and how much it says."""

from agents.memory.text.phrases import rank_phrases
from agents.memory.text.smalltalk import is_small_talk
from agents.memory.text.words import cut_middle, split_passage, split_words

MOST = 6
"""Concepts of one episode at most."""

TEXT_LIMIT = 2000
"""Characters of question and answer together that are looked at."""

LONGEST_PART = 8
"""Characters of a passage's part that is a phrase at most."""

RICH = 40
"""Distinct words from which the word half of :func:`salience` is full."""


def concepts(text: str) -> tuple[str, ...]:
    """Up to :data:`MOST` key phrases in lower case, best first; a phrase contained in an earlier one is left out.

    Of passages without spaces the parts between function words are phrases, unless they are long.
    """
    if not text.strip() or is_small_talk(text):
        return ()
    parts = (part for word in split_words(text[:TEXT_LIMIT]) for part in split_passage(word))
    phrases = [part for part in parts if 1 < len(part) <= LONGEST_PART]
    phrases += rank_phrases(text[:TEXT_LIMIT])
    names: list[str] = []
    for name in phrases:
        if not any(name in earlier for earlier in names):
            names.append(name)
    return tuple(names[:MOST])


def salience(text: str, phrases: tuple[str, ...]) -> float:
    """How much the text holds that is worth remembering, 0..1: distinct words and concepts in equal parts; small talk
    is 0. Two characters of a passage without spaces count as a word."""
    if is_small_talk(text):
        return 0.0
    words = sum(max(1, len(word) // 2) if split_passage(word) else 1 for word in set(split_words(cut_middle(text))))
    return 0.5 * min(1.0, words / RICH) + 0.5 * min(1.0, len(phrases) / MOST)
