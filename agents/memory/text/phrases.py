"""Key phrases of one text, ranked by what this text alone says: no model and no corpus.

The ideas are RAKE's (Rose et al., 2010), that phrases lie between stop words and punctuation, and YAKE's (Campos et
al., 2020), that a word counts by how often and how early it occurs and whether it is written as a name.
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from agents.memory.text.stopwords import WEAK_WORDS
from agents.memory.text.words import (
    LATIN,
    OTHER,
    SPACED_LETTER,
    drop_accents,
    is_stop_word,
    script_language,
    split_words,
    text_language,
)

NAME = 1.5
"""Weight of a word that is written as a name: a capital where no sentence begins, or one inside the word."""

PAIR = 0.75
"""Share of its words' weights that a pair has: more than the better word, unless the other one is much worse."""

FADING = 0.1
"""A word that first occurs after n sentences weighs 1 / (1 + FADING * n)."""

ELIDING = ("french", "italian")
"""Languages in which the word is behind the apostrophe; in the others it is before it, when few letters follow."""

_TOKEN = re.compile(f"{SPACED_LETTER}+(?:[.'\u2019-]{SPACED_LETTER}+)*")
_SENTENCE_END = re.compile(r"[.!?:\u2026\n]")
_FRENCH_PRONOUN = re.compile("-(?:t-)?(?:je|tu|ils?|elles?|on|nous|vous|ce|l[ae]|les|moi|toi|lui|leur|y|en)$", re.I)
"""What hangs on a French verb: "reste-t-il", "dites-moi"."""

_WEAK = {
    language: frozenset(drop_accents(word.casefold()) for word in words.split())
    for language, words in WEAK_WORDS.items()
}


class Word(NamedTuple):
    """A word that can be part of a phrase; neighbours that a space alone separates are of one ``run``."""

    text: str
    run: int
    sentence: int
    is_name: bool


def rank_phrases(text: str) -> list[str]:
    """Words and pairs of neighbouring words in lower case, best first; each word is in one of them.

    Chinese, Japanese and Korean words are in none.
    """
    text = unicodedata.normalize("NFKC", text)
    language = text_language(split_words(text))
    words = list(_find_words(text, LATIN[0] if language == OTHER else language))
    weights = _weigh_words(words)
    pairs = Counter((first.text, second.text) for first, second in pairwise(words) if first.run == second.run)
    candidates: dict[tuple[str, ...], float] = {(word,): weight for word, weight in weights.items()}
    for (first, second), count in pairs.items():
        candidates[first, second] = PAIR * (weights[first] + weights[second]) * _weigh_count(count)
    phrases: list[str] = []
    used: set[str] = set()
    for phrase in sorted(candidates, key=candidates.__getitem__, reverse=True):
        if used.isdisjoint(phrase):
            used.update(phrase)
            phrases.append(" ".join(phrase))
    return phrases


def _find_words(text: str, language: str) -> Iterator[Word]:
    """The words that say something, in their order; numbers say nothing by themselves."""
    run = sentence = end = 0
    begins = True
    for match in _TOKEN.finditer(text):
        gap = text[end : match.start()]
        end = match.end()
        if _SENTENCE_END.search(gap):
            sentence += 1
            begins = True
        token = _bare_word(match.group(), language)
        word = token.casefold()
        is_content = _is_content(word, script_language(word) or language)
        if not is_content or gap.strip(" "):
            run += 1
        if is_content:
            is_name = any(map(str.isupper, token[1:])) or (token[0].isupper() and not begins)
            yield Word(word, run, sentence, is_name)
        begins = False


def _bare_word(token: str, language: str) -> str:
    """A token without what hangs on it: "l'eau" is "eau", "Anna's" is "Anna", "veut-il" is "veut"; "O'Brien" stays."""
    head, apostrophe, tail = token.replace("\u2019", "'").rpartition("'")
    if language in ELIDING:
        return _FRENCH_PRONOUN.sub("", tail) if language == "french" else tail
    return head if apostrophe and len(tail) <= 2 else token


def _is_content(word: str, language: str) -> bool:
    return (
        len(word) > 1
        and not word[0].isdigit()
        and drop_accents(word) not in _WEAK.get(language, ())
        and not is_stop_word(word, language)
    )


def _weigh_words(words: list[Word]) -> dict[str, float]:
    """The weight of each word: how often it occurs, how early it first does, and whether it is a name anywhere."""
    counts = Counter(word.text for word in words)
    names = {word.text for word in words if word.is_name}
    sentences = {word.text: word.sentence for word in reversed(words)}
    return {
        word: _weigh_count(count) * (NAME if word in names else 1.0) / (1.0 + FADING * sentences[word])
        for word, count in counts.items()
    }


def _weigh_count(count: int) -> float:
    """What occurs often counts more, each further time less."""
    return 1.0 + math.log(count)
