"""Detects whether a turn concerns people: the cheap gate before any call to the model. Pure.

A term for a group is enough by itself; a term for a person counts only beside a judgement. Technical phrases that
borrow such words ("race condition", "female header") are removed first. It is a gate and not a verdict: it misses
texts without such words, and a turn that it finds is still judged.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from agents.antibias import lexicon
from agents.antibias.lexicon import Language


def _word_pattern(terms: Sequence[str]) -> re.Pattern[str]:
    """A pattern for whole words of lower-case text. Terms are grouped by first letter, so that most words fail
    early."""
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
    """What in a turn concerns people: the first few terms found, and their language."""

    terms: tuple[str, ...]
    language: Language


TERMS_SHOWN = 5
"""Terms that a :class:`Touch` names."""


def find_touch(question: str, answer: str) -> Touch | None:
    """The terms with which the question or the answer speaks of groups or judges a person; None without any."""
    text = _TECHNICAL.sub(" ", f"{question}\n{answer}".lower())
    terms_by_language = {language: _find_terms(text, language) for language in _GROUPS}
    language: Language = "fr" if len(terms_by_language["fr"]) > len(terms_by_language["en"]) else "en"
    if not terms_by_language[language]:
        return None
    return Touch(terms=tuple(terms_by_language[language])[:TERMS_SHOWN], language=language)


def _find_terms(text: str, language: Language) -> dict[str, None]:
    """The distinct terms found: groups first, then persons and judgements, each in the order of the text."""
    groups = _GROUPS[language].findall(text)
    judgements = _JUDGEMENTS[language].findall(text)
    persons = _PERSONS[language].findall(text) if judgements else []
    hits = [*groups, *(persons + judgements if persons else [])]
    return dict.fromkeys(hits)
