"""Words of a text as BM25 sees them: without accents and stop words, stemmed by language; n-grams where no spaces are.

"Élodie" and "elodie" are one word (NFKC, case folding, accents dropped). Stems and most stop words are qdrant-edge's.
The language follows from the script, and in the Latin one from the stop words of the text. Chinese, Japanese and Thai
count as n-grams, the first two after :data:`agents.memory.text.stopwords.CUTS` are cut out. So do Korean words without
their particles.

The same encoder serves both stores, so that a Qdrant server needs no inference service. The IDF is left to the
store.
"""

import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, lru_cache
from itertools import chain, repeat

import qdrant_edge as qdrant

from agents.memory.text.stopwords import CUTS, PARTICLES, STOP_WORDS
from schemas.errors import SetupError

SATURATION = 0.9
"""BM25's k1, and LENGTH its b: the values of Anserini, which suit short texts."""

LENGTH = 0.4
USUAL_LENGTH = 32.0
"""BM25's average length, in words with the neighbours' share; only its ratio to a document's length matters."""

CACHED = 1 << 15
"""Words whose hashes are kept."""

LATIN = ("english", "french", "german", "spanish", "italian", "portuguese", "dutch")
"""Languages that are told apart by their stop words; of two with as many the earlier counts."""

OTHER = "other"
"""The language of a text in a script of which neither stop words nor stems are known, or that several share."""

_AFTER_LATIN = "\u0250"
"""The first letter that is not of the Latin script."""

_BY_SCRIPT = (
    ("\u0370", "\u03ff", "greek"),
    ("\u0400", "\u04ff", "russian"),
    ("\u0600", "\u06ff", "arabic"),
)
"""First and last letter of the scripts whose words are stemmed in one language."""

SCRIPT_LANGUAGES = tuple(language for _, _, language in _BY_SCRIPT)

_IDEOGRAPHS = "\u3005-\u3007\u3041-\u30ff\u31f0-\u31ff\u3400-\u9fff\uf900-\ufaff\U00020000-\U000323af"
"""Chinese characters and both Japanese syllabaries."""

_HANGUL = "\uac00-\ud7a3"
_SOUTH_EAST = "\u0e01-\u0eff\u1000-\u109f\u1780-\u17ff"
"""Thai, Lao, Burmese and Khmer."""

_SIGNS = "\u0300-\u036f\u0591-\u05c7\u064b-\u065f\u0670\u0900-\u0963\u0971-\u0dff"
"""Accents and vowel signs, which are no letters to ``re`` and belong to the word."""

SPACED_LETTER = f"(?:[^\\W{_IDEOGRAPHS}{_HANGUL}]|[{_SIGNS}])"
"""A letter, digit or underscore of a word that spaces separate (no Chinese, Japanese or Korean one), as a pattern."""

_ASCII = re.compile("[a-z0-9]+")
_TOKEN = re.compile(
    f"[{_IDEOGRAPHS}]+|[{_HANGUL}]+|[{_SOUTH_EAST}]+|(?:[^\\W_{_IDEOGRAPHS}{_HANGUL}{_SOUTH_EAST}]|[{_SIGNS}])+"
)
_ACCENTS = re.compile("(?<=[a-z\u03b1-\u03c9\u0435])[\u0300-\u036f]+|[\u0591-\u05c7\u0640\u064b-\u065f\u0670]")
"""Accents of Latin and Greek letters, the dots of Russian "ё", and the vowel signs of Hebrew and Arabic."""

_LIGATURES = str.maketrans({"œ": "oe", "æ": "ae", "ø": "o", "ł": "l", "đ": "d", "ı": "i"})
_PARTICIPLE = re.compile("ees?$")
"""The French "-ée" and "-ées" without accents, which Snowball would take for another ending."""

_CUTS = re.compile("|".join(sorted(CUTS.split(), key=len, reverse=True)))
_PARTICLE = re.compile(f"(?<=..)(?:{'|'.join(sorted(PARTICLES.split(), key=len, reverse=True))})$")
_STARTS_IDEOGRAPHIC = re.compile(f"[{_IDEOGRAPHS}]")
_STARTS_HANGUL = re.compile(f"[{_HANGUL}]")
_STARTS_SOUTH_EAST = re.compile(f"[{_SOUTH_EAST}]")
_HIRAGANA = re.compile("[\u3041-\u309f]")

LONGEST_TEXT = 32_768
"""Characters of a text whose words count. A longer one counts by its beginning and its end, where the ask mostly is:
all words of a megabyte would hold a recall up for seconds."""

Counts = Mapping[int, float]
"""How often each word (as a hash) occurs; a fraction for words of the neighbours."""


class WordEncoder:
    """Counts the words of a text, by the stop words and stems of its language.

    ``language`` is taken for every text in the Latin script; an empty one is found for each text.
    """

    def __init__(self, language: str = "") -> None:
        if language:
            _check_language(language)
        self._language = language

    def counts(self, text: str) -> Counts:
        """How often each word occurs; stop words do not count."""
        return Counter(self._keys(text))

    def query_words(self, text: str) -> tuple[int, ...]:
        """The distinct words of a query."""
        return tuple(dict.fromkeys(self._keys(text)))

    def _keys(self, text: str) -> Iterable[int]:
        tokens = split_words(cut_middle(text))
        language = self._language or detect_language(tokens)
        return chain.from_iterable(map(_token_keys, tokens, repeat(language)))


def cut_middle(text: str) -> str:
    """The text itself, or three quarters of :data:`LONGEST_TEXT` from its beginning and one from its end."""
    if len(text) <= LONGEST_TEXT:
        return text
    tail = LONGEST_TEXT // 4
    return f"{text[: LONGEST_TEXT - tail]}\n{text[-tail:]}"


def weighted_sum(parts: Iterable[tuple[float, Mapping[int, float]]]) -> dict[int, float]:
    """Weighted sum of counts."""
    total: dict[int, float] = {}
    for weight, counts in parts:
        for word, count in counts.items():
            total[word] = total.get(word, 0.0) + weight * count
    return total


def bm25_weights(counts: Mapping[int, float]) -> dict[int, float]:
    """BM25's weight of each word in a document, without its IDF."""
    length = sum(counts.values())
    norm = SATURATION * (1.0 - LENGTH + LENGTH * length / USUAL_LENGTH)
    return {word: count * (SATURATION + 1.0) / (count + norm) for word, count in counts.items()}


def coverage(query_words: Iterable[int], counts: Mapping[int, float]) -> float:
    """Share of the query's words that the text contains, 0..1; 0 for a query without words."""
    words = tuple(query_words)
    return sum(word in counts for word in words) / len(words) if words else 0.0


def split_words(text: str) -> list[str]:
    """The words of a text in lower case, stop words included; a passage without spaces is one of them."""
    if text.isascii():
        return _ASCII.findall(text.lower())
    return _TOKEN.findall(unicodedata.normalize("NFKC", text).casefold())


@lru_cache(maxsize=CACHED)
def drop_accents(word: str) -> str:
    """The word, which is in lower case, without accents; letters of two are written as two."""
    if word.isascii():
        return word
    marked = unicodedata.normalize("NFD", word)
    return unicodedata.normalize("NFC", _ACCENTS.sub("", marked)).translate(_LIGATURES)


def detect_language(words: Sequence[str]) -> str:
    """The one of :data:`LATIN` of whose stop words most are among the words; English when there are none."""
    hits = Counter(chain.from_iterable(map(_stop_languages, words)))
    return max(LATIN, key=hits.__getitem__) if hits else LATIN[0]


def text_language(words: Sequence[str]) -> str:
    """The language of most of the words, by their scripts and stop words; :data:`OTHER` where the script says none."""
    scripts = Counter("" if drop_accents(word) < _AFTER_LATIN else script_language(word) or OTHER for word in words)
    return (scripts.most_common(1)[0][0] if scripts else "") or detect_language(words)


def script_language(word: str) -> str:
    """The language that a word's script says: "greek", "russian" or "arabic"; else empty."""
    return next((language for low, high, language in _BY_SCRIPT if low <= word[0] <= high), "")


def split_passage(word: str) -> list[str]:
    """What a passage without spaces, or a Korean word, is about; empty for other words."""
    if _STARTS_IDEOGRAPHIC.match(word):
        return [part for part in _CUTS.split(word) if part]
    return [_PARTICLE.sub("", word)] if _STARTS_HANGUL.match(word) else []


def name_keys(text: str) -> frozenset[int]:
    """What a text and a name in it have in common, whatever case, accents, inflexion or passage the name stands in."""
    return frozenset(chain.from_iterable(map(_name_keys, split_words(text))))


def _check_language(language: str) -> None:
    """Load the language's stop words and stems.

    Raises:
        SetupError: qdrant-edge has none.
    """
    try:
        is_stop_word("a", language)
        _stem("a", language)
    except (AttributeError, ValueError) as error:
        raise SetupError(
            f"setting 'agents.memory.language': there are no stop words and stems of '{language}': "
            f"leave it empty, or choose from {', '.join(LATIN)} and others of Snowball's.",
            param="agents.memory.language",
        ) from error


def _stem(word: str, language: str) -> int:
    """The hash of the stem of a word without accents."""
    if language == "french":
        word = _PARTICIPLE.sub("e", word)
    return int(_stemmer(language).embed_query(word).indices[0])


@cache
def _stemmer(language: str) -> qdrant.Bm25:
    algorithm = qdrant.SnowballParams(getattr(qdrant.SnowballLanguage, language.title()))
    return qdrant.Bm25(
        qdrant.Bm25Config(tokenizer=qdrant.TokenizerType.Whitespace, stopwords=qdrant.StopwordsSet(), stemmer=algorithm)
    )


@cache
def _stop_list(language: str) -> qdrant.Bm25:
    return qdrant.Bm25(qdrant.Bm25Config(language=language, tokenizer=qdrant.TokenizerType.Whitespace))


@lru_cache(maxsize=CACHED)
def _stop_languages(word: str) -> tuple[str, ...]:
    """The languages whose stop word this is, as it is written: accents tell "qué" from "que"."""
    if word >= _AFTER_LATIN:
        return ()
    return tuple(
        language
        for language in LATIN
        if drop_accents(word) in STOP_WORDS.get(language, ()) or not _stop_list(language).embed_query(word).indices
    )


@lru_cache(maxsize=CACHED)
def is_stop_word(word: str, language: str) -> bool:
    """Whether a word in lower case, with or without its accents, is a stop word of the language."""
    plain, stop_list = drop_accents(word), _stop_list(language)
    return (
        plain in STOP_WORDS.get(language, ())
        or not stop_list.embed_query(word).indices
        or not stop_list.embed_query(plain).indices
    )


@lru_cache(maxsize=CACHED)
def _token_keys(word: str, language: str) -> tuple[int, ...]:
    """The hashes of a word: its stem's or its n-grams'; none of a stop word."""
    if (grams := _grams(word)) is not None:
        return tuple(map(_hash, grams))
    language = script_language(word) or language
    return () if is_stop_word(word, language) else (_stem(drop_accents(word), language),)


@lru_cache(maxsize=CACHED)
def _name_keys(word: str) -> tuple[int, ...]:
    if _STARTS_IDEOGRAPHIC.match(word) or _STARTS_HANGUL.match(word) or _STARTS_SOUTH_EAST.match(word):
        return tuple(map(_hash, _windows(word, 2)))
    plain = drop_accents(word)
    if language := script_language(word):
        return (_hash(plain), _stem(plain, language))
    return (_hash(plain), _hash(plain.removesuffix("s")))


def _grams(word: str) -> list[str] | None:
    """The n-grams of a passage without spaces or of a Korean word; None for other words.

    Single characters count beside the pairs where each has a meaning of its own.
    """
    if word < "\u0e01":
        return None
    if _STARTS_IDEOGRAPHIC.match(word):
        parts = split_passage(word)
        characters = [character for part in parts for character in part if not _HIRAGANA.match(character)]
        return characters + [pair for part in parts if len(part) > 1 for pair in _windows(part, 2)]
    if _STARTS_HANGUL.match(word):
        stripped = _PARTICLE.sub("", word)
        return [] if stripped in STOP_WORDS["korean"] else _windows(stripped, 2)
    return _windows(word, 3) if _STARTS_SOUTH_EAST.match(word) else None


def _windows(text: str, size: int) -> list[str]:
    """All substrings of that size; the text itself when it is shorter."""
    return [text[at : at + size] for at in range(max(1, len(text) - size + 1))]


def _hash(text: str) -> int:
    return zlib.crc32(text.encode())
