"""Whether a newer text says something new of what an older one speaks of, so that the older no longer holds.

The claims decide (:mod:`agents.memory.text.claims`): who is spoken of, names, numbers with their units, days and
negation. A cosine alone cannot: "my daughter is allergic to peanuts" is closer to "my son is allergic to peanuts" than
"I moved to Shanghai" is to "I live in Beijing". It only rules out texts that have nothing to do with each other.
"""

from collections.abc import Iterator, Mapping

from agents.memory.text.claims import Activity, Attribute, Claim, Words, read_claims

LEAST_COSINES: Mapping[str, float] = {"all-mpnet-base-v2": 0.25}
"""By the embedder's name: the cosine below which nothing is replaced. Read on ``kiki bench superseding``'s development
half. With any other embedder the claims alone decide."""


def least_cosine(embedder: str, setting: float | None = None) -> float:
    """The cosine below which no episode replaces another: the setting, or what is known of the embedder."""
    return setting if setting is not None else LEAST_COSINES.get(embedder.rsplit("/", 1)[-1], -1.0)


def is_replaceable(text: str) -> bool:
    """Whether a later text could replace it: it claims something, and says nothing that stands whatever follows."""
    sentences = read_claims(text)
    return bool(sentences) and () not in sentences


def says_otherwise(newer: str, older: str) -> bool:
    """Whether every claim of the older text is replaced by the newer one.

    A text that claims nothing replaces nothing, and one that also says what is not replaced stands as a whole.
    """
    return is_replaceable(older) and all(_replace_sentences(newer, older))


def corrects(newer: str, older: str) -> bool:
    """Whether the newer text replaces at least one claim of the older one."""
    return any(_replace_sentences(newer, older))


def _replace_sentences(newer: str, older: str) -> Iterator[bool]:
    """For each sentence of the older text: whether the newer one replaces it."""
    new_claims = [claim for sentence in read_claims(newer) for claim in sentence]
    for sentence in read_claims(older):
        yield any(_replaces(new, old) for old in sentence for new in new_claims)


def _replaces(newer: Claim, older: Claim) -> bool:
    if isinstance(newer, Attribute):
        return isinstance(older, Attribute) and _gives_another_value(newer, older)
    return isinstance(older, Activity) and _turns_around(newer, older)


def _gives_another_value(newer: Attribute, older: Attribute) -> bool:
    if newer.key != older.key or _differ(newer.scope, older.scope):
        return False
    if newer.unit and older.unit and newer.unit != older.unit:
        return False
    if newer.key[0] == "time":
        return _sets_another_time(newer, older)
    return not (newer.value <= older.value or older.value <= newer.value)


def _sets_another_time(newer: Attribute, older: Attribute) -> bool:
    """Whether a day or an hour differs. One that only the newer names is an addition, unless it says that it
    changed."""
    for kind in ("day", "at"):
        new, old = (frozenset(part for part in side.value if part.startswith(kind)) for side in (newer, older))
        if new and old and not (new <= old or old <= new):
            return True
    return newer.changes and newer.value.isdisjoint(older.value)


def _turns_around(newer: Activity, older: Activity) -> bool:
    """Whether the newer denies what the older affirms, or affirms what it denies."""
    if newer.positive == older.positive or newer.holder != older.holder or _differ(newer.scope, older.scope):
        return False
    if (newer.ends and older.likes) or (newer.scope and not older.scope and not newer.ends):
        return False
    if newer.ends or not newer.positive:
        return newer.words <= older.words
    return older.words <= newer.words


def _differ(first: Words, second: Words) -> bool:
    """Whether both name days, and not the same ones."""
    return bool(first and second and first != second)
