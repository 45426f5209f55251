"""Judges whether a reply is French and says what was asked for."""

import re
import unicodedata
from collections.abc import Sequence

from runtime.bench.experts.verdict import ExpertVerdict

_FRENCH_WORDS = (
    "le la les un une des du de d l et est sont a ai as ont en dans pour pas ne n je j tu il elle on nous vous ils "
    "elles mon ma mes ton ta tes son sa ses ce cette ces qui que qu se s au aux avec sur par y était été sera"
)
_ENGLISH_WORDS = "the is are of to and in you your it this that for with not was were have has will can be should which"
FRENCH, ENGLISH = frozenset(_FRENCH_WORDS.split()), frozenset(_ENGLISH_WORDS.split())
_WORD = re.compile(r"[^\W\d_]+")


def is_french(text: str) -> bool:
    """Whether French function words outnumber English ones; a text of five words or fewer may have neither."""
    words = _WORD.findall(text.lower())
    french, english = sum(word in FRENCH for word in words), sum(word in ENGLISH for word in words)
    return french > english or (english == 0 and len(words) <= 5)


def fold(text: str) -> str:
    """A text as it is compared: small letters, one kind of apostrophe, words and accents only."""
    plain = unicodedata.normalize("NFC", text.lower()).replace("\u2019", "'").replace("œ", "oe")
    return " ".join(re.findall(r"[^\W_]+", plain))


def judge_french(reply: str, reference: str, facts: Sequence[str]) -> ExpertVerdict:
    """Right when the reply is French and holds all facts, or without facts the whole reference; accents count, marks
    and capitals do not. Alone when it is one line, at most three words longer than
    the reference."""
    text = f" {fold(reply)} "
    right = is_french(reply) and all(f" {fold(fact)} " in text for fact in facts or (reference,))
    alone = right and "\n" not in reply.strip() and len(reply.split()) <= len(reference.split()) + 3
    return ExpertVerdict(right, alone)
