"""Whether a turn touches people: the cheap gate before any call to the model. Pure.

A term for a group is enough by itself; a term for a person needs a judgement beside it. Technical phrases that
borrow such words ("race condition", "female header") are taken out first. It is a gate and not a verdict: it
misses what says no such word, and what it lets in is still judged.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from agents.antibias import lexicon
from agents.antibias.lexicon import Language


def _word_pattern(terms: Sequence[str]) -> re.Pattern[str]:
    """Whole words of lower-case text; terms stand together by their first letter, so that most words fail soon."""
    by_letter: dict[str, list[str]] = {}
    for term in terms:
        plain = term[0].isalpha() and term[1:2] not in ("?", "*", "{")
        by_letter.setdefault(term[0] if plain else "", []).append(term[1:] if plain else term)
    branches = [f"{letter}(?:{'|'.join(rest)})" for letter, rest in sorted(by_letter.items())]
    return re.compile(rf"(?<!\w)(?:{'|'.join(branches)})(?!\w)")


_TECHNICAL = _word_pattern(lexicon.TECHNICAL)
_GROUPS = {language: _word_pattern(terms) for language, terms in lexicon.GROUPS.items()}
_PERSONS = {language: _word_pattern(terms) for language, terms in lexicon.PERSONS.items()}
_JUDGEMENTS = {language: _word_pattern(terms) for language, terms in lexicon.JUDGEMENTS.items()}


@dataclass(frozen=True, kw_only=True)
class Touch:
    """What in a turn concerns people: the first few terms, and the language that says it."""

    terms: tuple[str, ...]
    language: Language


TERMS_SHOWN = 5
"""Terms that a :class:`Touch` names."""


def find_touch(question: str, answer: str) -> Touch | None:
    """Whether the question or the answer speaks of groups, or judges a person; None when it touches nobody."""
    text = _TECHNICAL.sub(" ", f"{question}\n{answer}".lower())
    terms_by_language = {language: _find_terms(text, language) for language in _GROUPS}
    language: Language = "fr" if len(terms_by_language["fr"]) > len(terms_by_language["en"]) else "en"
    if not terms_by_language[language]:
        return None
    return Touch(terms=tuple(terms_by_language[language])[:TERMS_SHOWN], language=language)


def _find_terms(text: str, language: Language) -> dict[str, None]:
    """Terms in the order of the text."""
    groups = _GROUPS[language].findall(text)
    judgements = _JUDGEMENTS[language].findall(text)
    persons = _PERSONS[language].findall(text) if judgements else []
    hits = [*groups, *(persons + judgements if persons else [])]
    return dict.fromkeys(hits)
