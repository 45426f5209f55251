"""A long message in passages: the ask, at its beginning or end, and what it is about. The embedder reads 384 tokens.

A log or notes of thousands of words hide the one sentence that says what is wanted. So the message is read as a
conversation of two: the passages are what was said before, and the ask is the message.
"""

import re
from dataclasses import dataclass

LONG = 1200
"""Characters from which a message is read in passages; up to there the embedder reads all of it."""

MAX_ASK = 400
"""Characters of an ask at most."""

PASSAGE = 400
"""Characters of a passage from the middle or the end."""

MIDDLE = 2
"""Passages after the first, evenly spaced, the last at the end."""

_ASKING_WORDS = """
    what which who whom whose when where why how is are was were do does did can could will would should may
    might shall write explain show give tell make create build generate list find fix debug correct rewrite
    refactor convert translate summarise summarize compare describe design draft extract implement calculate
    compute estimate suggest propose recommend help add remove change turn use check review analyse analyze
    identify parse plot plan optimise optimize improve simplify prove solve derive draw define determine answer
    complete continue format sort count classify quel quelle quels quelles qui que quoi quand où pourquoi
    comment combien est-ce peux-tu pouvez-vous pourrais-tu pourriez-vous écris écrivez explique expliquez montre
    montrez donne donnez dis fais faites crée créez génère liste trouve trouvez corrige corrigez réécris traduis
    traduisez résume résumez compare décris propose aide aidez ajoute enlève calcule calculez vérifie vérifiez
    analyse analysez identifie convertis transforme rédige rédigez optimise
"""
_FILLING_WORDS = """
    and now please then so ok okay first next finally based given using from with the above this that text log
    notes i you we want need would like to me for et maintenant alors donc puis enfin merci de s'il te vous
    plaît je veux voudrais d'abord ensuite
"""
_STARTS, _FILLERS = frozenset(_ASKING_WORDS.split()), frozenset(_FILLING_WORDS.split())
_WORD = re.compile(r"[\w'’-]+")
_PARAGRAPH_END = re.compile(r"\n\s*\n")
_SENTENCE_END = re.compile(r"(?<=[.!?:;])\s+|\n+")


@dataclass(frozen=True)
class Passages:
    """A message's texts to embed. ``ask`` is empty when neither end asks for anything; a short message is its ask."""

    ask: str
    about: tuple[str, ...] = ()

    @property
    def texts(self) -> tuple[str, ...]:
        """All of them; a text that has no ask is about something at least."""
        return ((self.ask,) if self.ask else ()) + self.about


def split_message(text: str) -> tuple[Passages, ...]:
    """The ways to read a message: one, or two when both its ends ask for something."""
    if len(text) <= LONG:
        return (Passages(ask=text),)
    about = (text, *_middle(text))
    asks = [end for end in dict.fromkeys((_first(text), _last(text))) if is_ask(end)]
    return tuple(Passages(ask=ask, about=about) for ask in asks) or (Passages(ask="", about=about),)


def is_ask(text: str) -> bool:
    """Whether one of the sentences is a question, or begins with a word of asking or telling (English and French)."""
    return any(_asks(sentence) for sentence in _SENTENCE_END.split(text.strip()))


def _asks(sentence: str) -> bool:
    words = [word.lower().replace("’", "'") for word in _WORD.findall(sentence)]
    if not words or not any(word.isalpha() and len(word) > 2 for word in words):
        return False
    first = next((word for word in words[:8] if word not in _FILLERS), "")
    return sentence.rstrip().endswith("?") or first in _STARTS


def _first(text: str) -> str:
    """What the message begins with: a short paragraph that asks, or else a sentence or two."""
    paragraph = _PARAGRAPH_END.split(text.strip(), maxsplit=1)[0]
    sentences = _SENTENCE_END.split(paragraph)
    return paragraph if len(paragraph) <= MAX_ASK else _join(sentences[:1] if _asks(sentences[0]) else sentences[:2])


def _last(text: str) -> str:
    """What the message ends with, in the same way."""
    paragraph = _PARAGRAPH_END.split(text.strip())[-1]
    sentences = _SENTENCE_END.split(paragraph)
    return paragraph if len(paragraph) <= MAX_ASK else _join(sentences[-1:] if _asks(sentences[-1]) else sentences[-2:])


def _join(sentences: list[str]) -> str:
    return " ".join(sentences)[:MAX_ASK].strip()


def _middle(text: str) -> tuple[str, ...]:
    last = len(text) - PASSAGE
    starts = [last * number // MIDDLE for number in range(1, MIDDLE + 1)]
    return tuple(text[start : start + PASSAGE] for start in starts)
