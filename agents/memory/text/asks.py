"""Whether a text asks or says something, and whether two questions ask the same.

How a question or a request begins is told by closed lists (English and French); elsewhere the question mark decides,
and a text in doubt counts as saying something.
"""

import re
from collections.abc import Collection, Sequence
from itertools import dropwhile

from agents.memory.text.smalltalk import is_small_talk

_SENTENCE = re.compile(r"[^.!?？。！؟\n]+(?:[.](?=\S)[^.!?？。！؟\n]+)*[.!?？。！؟]*")
_QUESTION_MARKS = ("?", "？", "؟")
_CLAUSE = re.compile(r"[,;:](?=\s)|[，；：]")
_WORD = re.compile(r"[^\W_]+")

_FILLERS = """
    and so but then please again ok okay thanks thank hi hello et alors encore merci bonjour salut mais
"""
_PREPOSITIONS = """
    at in on to for of from with by since until à de d dans pour avec depuis sur en
"""
_INTERROGATIVES = """
    what whats who whos whose whom when where wheres why how hows which que quoi qu quel quelle quels quelles qui quand
    où ou comment combien pourquoi
"""
_SUBJECTS = """
    i we you he she it they my our your his her its their the a an je j tu il elle on nous vous ils elles mon ma mes
    notre nos le la les l
"""
"""After an interrogative they begin a clause, not a question: When I was young, I lived in Rome."""

_REQUESTS = """
    is are was were do does did can could would shall should tell give explain describe define list name write show say
    compute calculate translate summarise summarize compare convert find solve remind est sont peux peut pouvez dis
    dites donne donnez explique expliquez décris décrivez définis définissez liste écris écrivez montre montrez calcule
    calculez traduis traduisez résume résumez cite citez nomme rappelle rappelez
"""
_CONDITIONS = "if whether when si quand"
_VERBS = "is are was were am has have had est sont était étaient suis ai avons ont avait"

FILLERS, PREPOSITIONS, INTERROGATIVES, SUBJECTS, REQUESTS, CONDITIONS, VERBS = (
    frozenset(words.split())
    for words in (_FILLERS, _PREPOSITIONS, _INTERROGATIVES, _SUBJECTS, _REQUESTS, _CONDITIONS, _VERBS)
)

_SPEECH = re.compile(
    r"\byou(?:'ve| have| had)? (?:just |already )?"
    r"(?:said|told|suggested|recommended|advised|answered|wrote|mentioned|explained|called|proposed|gave)\b"
    r"|\b(?:did|have) you (?:just |already )?"
    r"(?:say|said|tell|told|suggest(?:ed)?|recommend(?:ed)?|advise(?:d)?|answer(?:ed)?|write|written|mention(?:ed)?"
    r"|explain(?:ed)?|propose(?:d)?|give|given)\b"
    r"|\byour (?:last |earlier |previous )?(?:answer|suggestion|recommendation|advice|reply)\b"
    r"|\b(?:(?:tu|vous) (?:m'|me |nous )?(?:as|avais|avez|aviez)|as-tu|avez-vous|avais-tu|aviez-vous)"
    r" (?:dit|conseillé|proposé|recommandé|répondu|écrit|suggéré)\b"
    r"|\b(?:ta|votre) (?:dernière |précédente )?(?:réponse|suggestion|recommandation)\b",
    re.IGNORECASE,
)


def says_something(text: str) -> bool:
    """Whether the text states something beside its questions and requests."""
    return any(map(_states, _SENTENCE.findall(text.replace("’", "'").strip())))


def asks_for_words(text: str) -> bool:
    """Whether the text asks what the assistant said before; then its answers are what is looked for."""
    return _SPEECH.search(text.replace("’", "'")) is not None


def asks_in_words(query_words: Collection[int], question_words: Collection[int]) -> bool:
    """Whether two questions have the same words, or one has all of the other's (two at least) and no more beside."""
    shorter, longer = sorted((set(query_words), set(question_words)), key=len)
    if shorter == longer:
        return bool(shorter)
    return 2 <= len(shorter) >= len(longer) / 2 and shorter <= longer


def _states(sentence: str) -> bool:
    """Whether the sentence is a statement, or holds one beside what it asks: My cat is ill, what helps?"""
    if is_small_talk(sentence):
        return False
    clauses = [words for part in _CLAUSE.split(sentence.casefold()) if (words := _words_of(part))]
    statements = [words for words in clauses if not _asks(words)]
    if len(statements) == len(clauses) and not sentence.strip().endswith(_QUESTION_MARKS):
        return bool(statements)
    return any(map(_has_verb, statements if len(statements) < len(clauses) else statements[:-1]))


def _words_of(clause: str) -> list[str]:
    return list(dropwhile(FILLERS.__contains__, _WORD.findall(clause)))


def _asks(words: Sequence[str]) -> bool:
    if words[0] in PREPOSITIONS:
        return len(words) > 1 and words[1] in INTERROGATIVES
    if words[0] in INTERROGATIVES:
        return len(words) == 1 or words[1] not in SUBJECTS
    return words[0] in REQUESTS


def _has_verb(words: Sequence[str]) -> bool:
    """Whether a clause looks like a statement: it has a form of to be or to have, or begins with its subject."""
    if words[0] in CONDITIONS:
        return False
    return not VERBS.isdisjoint(words) or (words[0] in SUBJECTS and len(words) > 2)
