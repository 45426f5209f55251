"""Reads what a text claims, by closed lists of words (English and French): no model, some tens of microseconds a text.

A claim is about somebody or something. An :class:`Attribute` gives it a value ("my budget is 1200": *budget*, 1200), an
:class:`Activity` says that it does something or no longer does ("I do not smoke"). Questions, wishes and plans claim
nothing, and what happened once ("I bought bread") is no state that could end.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache

from msgspec import Struct

from agents.memory.text.claim_words import (
    ENGLISH,
    FRENCH,
    GROUPS,
    KIN,
    NAME,
    NAMING,
    NEUTRAL,
    ONLY,
    TITLES,
    UNITS,
    Language,
)
from agents.memory.text.smalltalk import is_small_talk

KEPT_TEXTS = 8192
"""Texts whose claims are remembered."""

LONGEST = 2000
"""Characters of a text that are read; a longer one is a document, and no claim."""

LONGEST_SENTENCE = 120
"""Characters of a sentence that is read; a longer one says too much to be replaced by another."""

Words = frozenset[str]


class Attribute(Struct, frozen=True):
    """Somebody's or something's one value.

    Attributes:
        key: what must be the same in two claims about one thing: the kind of value, who or what, and of what.
        value: the words of the value.
        unit: of a number; empty if none is named.
        scope: days that the claim is limited to.
        changes: whether it says that the value has changed.
    """

    key: tuple[str, Words]
    value: Words
    unit: str = ""
    scope: Words = frozenset()
    changes: bool = False


class Activity(Struct, frozen=True):
    """What somebody does, is or has, by its words; or does not, or no longer.

    Attributes:
        ends: whether it names an end or a beginning ("quit smoking"), where the object alone is enough.
        likes: whether it is a liking or a knowledge, which the loss of a thing does not end.
    """

    holder: Words
    words: Words
    positive: bool
    scope: Words = frozenset()
    ends: bool = False
    likes: bool = False


Claim = Attribute | Activity
Sentence = tuple[Claim, ...]
"""The readings of one sentence; none for a sentence that says something which cannot be replaced."""


class _Token(Struct, frozen=True):
    """A word as written and as compared: lower case, without accents."""

    raw: str
    word: str


class _Times(Struct, frozen=True):
    days: Words
    clock: Words


class _Clause(Struct, frozen=True):
    """A sentence taken apart: who, the first word of what is said, and the rest."""

    language: Language
    subject: tuple[_Token, ...]
    predicate: tuple[_Token, ...]
    holder: Words
    times: _Times
    negated: bool
    changed: bool
    starts_with_name: bool


@lru_cache(maxsize=KEPT_TEXTS)
def read_claims(text: str) -> tuple[Sentence, ...]:
    """What each sentence of the text claims, questions and small talk left out."""
    if len(text) > LONGEST:
        return ((),)
    return tuple(
        _read_sentence(clause, language) if len(clause) <= LONGEST_SENTENCE else ()
        for sentence in _split_sentences(text)
        for language in (_language(sentence),)
        for clause in language.clauses.split(language.openings.sub("", sentence))
        if clause.strip(" ,.!") and not is_small_talk(clause) and not _asks(clause, language)
    )


_SENTENCE = re.compile(r"(?:\b(?:Mr|Mrs|Ms|Dr|St)\.|[.,:](?=\w)|[^.!?;\n])+[.!?;\n]*")
_TOKEN = re.compile(r"[^\s,;!?()\"«»]+@[^\s,;!?()\"«»]+\w|[€$£%]|\w+(?:[:.-]\w+)*")
_GROUPS_OF_THREE = re.compile(r"(?<=\d)[,\u00a0\u202f](?=\d{3}\b)")
_DIGITS = re.compile(r"\d")
_CLOCK = re.compile(r"\d{1,2}(?::\d\d|h\d{0,2})(?:am|pm)?|\d{1,2}(?:am|pm)")
_NUMBER = re.compile(r"\d+(?:[.]\d+)?")
_AMOUNT = re.compile(r"(\d+(?:[.]\d+)?)([a-z]+)")


def _split_sentences(text: str) -> Iterable[str]:
    straight = text.replace("’", "'").replace("‘", "'")
    return (part.strip() for part in _SENTENCE.findall(straight) if part.strip())


def _language(sentence: str) -> Language:
    words = set(re.findall(r"\w+", sentence.casefold()))
    return FRENCH if len(words & FRENCH.marks) > len(words & ENGLISH.marks) else ENGLISH


def _asks(sentence: str, language: Language) -> bool:
    return sentence.rstrip().endswith("?") or language.asks.match(sentence.casefold()) is not None


def fold(text: str) -> str:
    """Lower case without accents; the French "à" and "où" keep theirs, because "a" and "ou" are other words."""
    lower = text.casefold()
    if lower in ("à", "où") or lower.isascii():
        return lower
    plain = unicodedata.normalize("NFKD", lower.replace("œ", "oe").replace("æ", "ae"))
    return "".join(letter for letter in plain if not unicodedata.combining(letter))


def _tokens(sentence: str, language: Language) -> list[_Token]:
    text = _GROUPS_OF_THREE.sub("", sentence)
    for pattern, replacement in language.contractions:
        text = pattern.sub(replacement, text)
    tokens: list[_Token] = []
    for raw in _TOKEN.findall(text):
        word = fold(raw)
        if tokens and _is_whole(word) and _is_whole(tokens[-1].word):
            tokens[-1] = _Token(tokens[-1].raw + raw, tokens[-1].word + word)  # 14 000, 555 0134
        else:
            tokens.append(_Token(raw, language.numbers.get(word, word)))
    return tokens


def _is_whole(word: str) -> bool:
    return word.isdecimal()


def _read_sentence(sentence: str, language: Language) -> Sentence:
    clause = _take_apart(sentence, language)
    if clause is None:
        return ()
    words = [token.word for token in clause.predicate]
    if any(word in language.wishes for word in words) or language.future.search(" ".join(words)):
        return ()
    claims: list[Claim] = [*_states(clause)]
    if not clause.negated:
        claims += _slots(clause)
    ended = _activity_end(clause)
    if ended is not None:
        return (*claims, ended)
    if _is_past(clause):
        return tuple(claims)
    if not clause.negated:
        claims += _values(clause)
    content = _content(clause.predicate, language)
    if content:
        likes = any(word in language.likings for word in words)
        claims.append(Activity(clause.holder, content, not clause.negated, clause.times.days, likes=likes))
    return tuple(claims)


def _take_apart(sentence: str, language: Language) -> _Clause | None:
    """The parts of a sentence; None without a subject that can be told from others ("it is late")."""
    text = language.openings.sub("", sentence)
    tokens, times = _take_times(_tokens(text, language), language)
    spoken = " ".join(token.word for token in tokens)
    negated = language.negation.search(spoken) is not None
    changed = language.change.search(spoken) is not None
    tokens = [token for token in tokens if token.word not in language.adverbs]
    if not tokens or tokens[0].word in language.pronouns:
        return None
    if tokens[0].word in language.unspoken:
        tokens = [_Token("I", "i"), *tokens]
    end = _subject_end(tokens, language)
    if end == 0:
        return None
    subject, predicate = tuple(tokens[:end]), tuple(tokens[end:])
    return _Clause(
        language=language,
        subject=subject,
        predicate=predicate,
        holder=_holder(subject, language),
        times=times,
        negated=negated,
        changed=changed,
        starts_with_name=all(token.raw[:1].isupper() for token in subject),
    )


def _subject_end(tokens: Sequence[_Token], language: Language) -> int:
    """Tokens of the subject: what stands before the verb, or the first noun where no verb is known; 0 if none is told
    from the rest."""
    if tokens[0].word in language.speakers or tokens[0].word in language.listeners:
        return 1
    least = 2 if tokens[0].word in language.determiners else 1
    for place, token in enumerate(tokens[least:9], least):
        if token.word in language.finite or token.word in language.verbs:
            return place
    first = 1 if tokens[0].word in language.determiners else 0
    if not first and not tokens[0].raw[:1].isupper():
        return 0
    end = min(first + 1, len(tokens))
    while end < len(tokens) and (
        tokens[end].raw[:1].isupper() or tokens[end].word in language.of or tokens[end - 1].word in language.of
    ):
        end += 1
    return end


def _holder(subject: Sequence[_Token], language: Language) -> Words:
    if subject[0].word in language.speakers:
        return frozenset({"i"})
    owner = {f"owner {subject[0].word}"} if subject[0].word in language.others else set()
    return frozenset(owner) | _content(subject, language)


def _content(tokens: Iterable[_Token], language: Language) -> Words:
    """The stems of the words that say something."""
    stems = (language.stem(token.word) for token in tokens if token.word not in language.idle)
    return frozenset(NAMING.get(stem, stem) for stem in stems)


def _take_times(tokens: Sequence[_Token], language: Language) -> tuple[list[_Token], _Times]:
    """The tokens without those that name a day, a date or an hour; and these."""
    days, clock, rest = set(), set(), []
    words = [token.word for token in tokens]
    shifted = any(word in language.shifts for word in words)
    at = 0
    while at < len(tokens):
        word = words[at]
        following = words[at + 1] if at + 1 < len(words) else ""
        before = words[at - 1] if at else ""
        capital = tokens[at].raw[:1].isupper() or language is FRENCH
        if word in language.days:
            days.add(word)
        elif word in language.months and (capital or _NUMBER.fullmatch(before)):
            days.add(language.months[word])
        elif _NUMBER.fullmatch(word.removesuffix("er").removesuffix("th")) and (
            following in language.months or before in language.months
        ):
            days.add(word.removesuffix("er").removesuffix("th"))
        elif _CLOCK.fullmatch(word):
            clock.add(word.replace("h", ":").strip(":"))
        elif _NUMBER.fullmatch(word) and (
            following in language.hours or before in language.at_hour or (before == "to" and shifted)
        ):
            if (following not in UNITS or following in language.hours) and float(word) <= 24:
                clock.add(word)
                at += following in language.hours
            else:
                rest.append(tokens[at])
        else:
            rest.append(tokens[at])
        at += 1
    return rest, _Times(frozenset(days), frozenset(clock))


def _is_past(clause: _Clause) -> bool:
    """Whether it tells what happened once."""
    written = " ".join(token.raw.casefold() for token in clause.predicate)
    return not clause.changed and clause.language.past.match(written) is not None


def _activity_end(clause: _Clause) -> Activity | None:
    """What somebody gave up, or began: the object of a verb of ending or beginning."""
    language, spoken = clause.language, " ".join(token.word for token in clause.predicate)
    for pattern, positive in ((language.ends, False), (language.begins, True)):
        match = pattern.match(spoken)
        if match is None:
            continue
        rest = spoken[match.end() :].split()
        words = frozenset(language.stem(word) for word in rest if word not in language.idle)
        if words:
            return Activity(clause.holder, words, positive != clause.negated, clause.times.days, ends=True)
    return None


def _slots(clause: _Clause) -> Iterable[Attribute]:
    """Where somebody lives, works or learns, and what they are by profession."""
    language, spoken = clause.language, " ".join(token.word for token in clause.predicate)
    for slot, pattern in language.slots:
        match = pattern.match(spoken)
        if match is None:
            continue
        words = match.group("value").split()
        value = frozenset(language.stem(word) for word in words if word not in language.idle)
        if value:
            yield Attribute((slot, clause.holder), value, changes=clause.changed)


def _states(clause: _Clause) -> Iterable[Attribute]:
    """Which of the states that exclude each other somebody or something is in."""
    language = clause.language
    words = _content(clause.predicate, language)
    for group, states in GROUPS.items():
        named = {states[word] for word in words if word in states} - {NEUTRAL}
        if len(named) == 1 and all(word in states for word in words):
            state = named.pop()
            if clause.negated:
                if group != "diet":
                    return
                state = "plants" if state == "meat" else "meat"
            scope = frozenset() if group in ("relation", "diet", "work") else clause.times.days
            yield Attribute((group, clause.holder), frozenset({state}), scope=scope, changes=clause.changed)
            return


def _values(clause: _Clause) -> Iterable[Attribute]:
    """The number, time, name or word that the sentence gives its subject."""
    language, predicate = clause.language, list(clause.predicate)
    verb = predicate[0].word if predicate else ""
    is_named = language.named.match(" ".join(token.word for token in predicate)) is not None
    is_copula = verb in language.copulas or is_named or clause.changed or not predicate
    frame_subject = clause.holder
    numbers = [at for at, token in enumerate(predicate) if _amount(token.word)]
    spells_out = is_copula and clause.holder & ONLY and any(token.raw[:1].isupper() for token in predicate)
    if len(numbers) == 1 and not spells_out:
        yield _number(clause, numbers[0])
        return
    if numbers and not spells_out:
        return
    if (clause.times.days or clause.times.clock) and (clause.holder != {"i"} or verb in language.hours_of_day):
        if not is_copula and verb not in language.schedules:
            return
        if clause.subject[0].word in language.indefinite:
            return
        words = _content(predicate, language)
        if verb in language.hours_of_day:
            yield Attribute(("clock", frame_subject | words), clause.times.clock, scope=clause.times.days)
        else:
            value = frozenset(f"day {day}" for day in clause.times.days) | {f"at {hour}" for hour in clause.times.clock}
            yield Attribute(("time", frame_subject | words), value, changes=clause.changed)
        return
    if not is_copula:
        return
    yield from _names(clause, is_named=is_named)


def _number(clause: _Clause, at: int) -> Attribute:
    language, predicate = clause.language, clause.predicate
    amount, unit = _amount(predicate[at].word) or ("", "")
    rest = list(predicate[:at])
    following = predicate[at + 1].word if at + 1 < len(predicate) else ""
    if rest and rest[-1].word in UNITS and not rest[-1].word.isalpha():
        unit = UNITS[rest.pop().word]
    if following in UNITS:
        unit, rest = UNITS[following], [*rest, *predicate[at + 2 :]]
    else:
        rest += predicate[at + 1 :]
    unit = UNITS.get(unit, unit)
    words = _content(rest, language)
    holder = clause.holder
    if holder == {"i"} and words and predicate[0].word in language.having:
        holder = frozenset()
    if clause.subject[0].word in language.several and not words:
        unit = unit or "people"
    return Attribute(("number", holder | words), frozenset({amount}), unit, scope=clause.times.days)


def _names(clause: _Clause, *, is_named: bool) -> Iterable[Attribute]:
    language, predicate = clause.language, clause.predicate
    rest = [token for token in predicate if token.word not in language.idle and token.word not in TITLES]
    if is_named:
        rest = rest[1:]
    names = [token for token in rest if _is_name(token)]
    stems = frozenset(language.stem(token.word) for token in rest)
    if (
        clause.starts_with_name
        and clause.holder != {"i"}
        and not names
        and len(predicate) > 1
        and predicate[1].word in language.definite
    ):
        if not stems & KIN:
            yield Attribute(("name", stems), clause.holder)
        return
    subject = clause.holder | ({NAME} if is_named else frozenset())
    if subject == {NAME}:
        subject |= {"i"}
    if subject & KIN and not subject & (ONLY - {NAME}):
        return
    is_only = bool(rest and subject & ONLY and not clause.times.days)
    if is_only or (names and len(names) == len(rest) and subject != {"i"}):
        yield Attribute(("name", subject), stems)


def _is_name(token: _Token) -> bool:
    return token.raw[:1].isupper() or "@" in token.raw or (_DIGITS.search(token.raw) is not None)


def _amount(word: str) -> tuple[str, str] | None:
    """A number and the unit that is written with it."""
    if _NUMBER.fullmatch(word):
        return (f"{float(word):g}" if len(word) < 9 else word), ""
    match = _AMOUNT.fullmatch(word)
    if match is not None and match.group(2) in UNITS:
        return f"{float(match.group(1)):g}", match.group(2)
    return None
