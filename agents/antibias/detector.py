"""Whether a turn touches people: the cheap gate before any call to the model. Pure.

A term for a group is enough by itself; a term for a person needs a judgement beside it. Technical phrases that
borrow such words ("race condition", "female header") are taken out first. It is a gate and not a verdict: it
misses what says no such word, and what it lets in is still judged.
"""

import re
from dataclasses import dataclass

from agents.antibias import lexicon
from agents.antibias.lexicon import Language


def _words(terms: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(r"(?<!\w)(?:" + "|".join(terms) + r")(?!\w)", re.IGNORECASE)


_TECHNICAL = _words(lexicon.TECHNICAL)
_GROUPS = {language: _words(terms) for language, terms in lexicon.GROUPS.items()}
_PERSONS = {language: _words(terms) for language, terms in lexicon.PERSONS.items()}
_JUDGEMENTS = {language: _words(terms) for language, terms in lexicon.JUDGEMENTS.items()}


@dataclass(frozen=True, kw_only=True)
class Touch:
    """What in a turn concerns people: the first few terms, and the language that says it."""

    terms: tuple[str, ...]
    language: Language


TERMS_SHOWN = 5
"""Terms that a :class:`Touch` names."""


def touches(question: str, answer: str) -> Touch | None:
    """Whether the question or the answer speaks of groups, or judges a person; None when it touches nobody."""
    text = _TECHNICAL.sub(" ", f"{question}\n{answer}")
    found = {language: _found(text, language) for language in _GROUPS}
    language: Language = "fr" if len(found["fr"]) > len(found["en"]) else "en"
    if not found[language]:
        return None
    return Touch(terms=tuple(found[language])[:TERMS_SHOWN], language=language)


def _found(text: str, language: Language) -> dict[str, None]:
    """Lower-case terms in the order of the text."""
    groups = _GROUPS[language].findall(text)
    judged = _JUDGEMENTS[language].findall(text)
    persons = _PERSONS[language].findall(text) if judged else []
    hits = [*groups, *(persons + judged if persons else [])]
    return dict.fromkeys(hit.lower() for hit in hits)
