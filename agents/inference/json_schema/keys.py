"""Follows JSON text and sees when an object is given a key that it has.

A grammar cannot know it: the keys of an open object are any text. An object with a key twice is read differently by
every parser.
"""

import json
from collections.abc import Iterable
from typing import NamedTuple

_QUOTE, _ESCAPE, _COMMA = b'"'[0], b"\\"[0], b","[0]
_OPEN_OBJECT, _OPEN_LIST, _CLOSE = b"{"[0], b"["[0], frozenset(b"}]")


class JsonPlace(NamedTuple):
    """A place in a JSON text: before its first character as it is made, and moved on by :meth:`after`.

    ``keys`` are those of the innermost object, None in a list; ``outer`` the same around it. ``key`` is the raw text of
    the key that is being written.
    """

    keys: frozenset[str] | None = None
    outer: tuple[frozenset[str] | None, ...] = ()
    key: bytes | None = None
    in_text: bool = False
    escaped: bool = False
    before_key: bool = False

    @property
    def quotes_to_key(self) -> int:
        """How many quotation marks complete the next key, at least."""
        if not self.in_text:
            return 2
        return 1 if self.key is not None else 3

    def after(self, text: bytes) -> "JsonPlace | None":
        """The place behind ``text``, which continues the JSON; None when an object has a key twice there."""
        place: JsonPlace | None = self
        for byte in text:
            if place is not None:
                place = place._in_text_after(byte) if place.in_text else place._after(byte)
        return place

    def _after(self, byte: int) -> "JsonPlace":
        if byte == _QUOTE:
            return self._replace(in_text=True, key=b"" if self.before_key else None, before_key=False)
        if byte == _OPEN_OBJECT:
            return JsonPlace(keys=frozenset(), outer=(self.keys, *self.outer), before_key=True)
        if byte == _OPEN_LIST:
            return JsonPlace(outer=(self.keys, *self.outer))
        if byte in _CLOSE and self.outer:
            return JsonPlace(keys=self.outer[0], outer=self.outer[1:])
        if byte == _COMMA:
            return self._replace(before_key=self.keys is not None)
        return self

    def _in_text_after(self, byte: int) -> "JsonPlace | None":
        if byte != _QUOTE or self.escaped:
            key = None if self.key is None else self.key + bytes([byte])
            escaped = byte == _ESCAPE and not self.escaped
            return self if (key, escaped) == (self.key, self.escaped) else self._replace(key=key, escaped=escaped)
        if self.key is None or self.keys is None:
            return self._replace(in_text=False)
        key_text = _decode(self.key)
        if key_text in self.keys:
            return None
        return self._replace(keys=self.keys | {key_text}, key=None, in_text=False)


class QuotedTokens:
    """The tokens of a vocabulary that hold a quotation mark, which alone can complete a key."""

    def __init__(self, texts: Iterable[bytes]) -> None:
        quoted = [(token, text) for token, text in enumerate(texts) if b'"' in text]
        self._with_quotes = {
            count: [(token, text) for token, text in quoted if text.count(b'"') >= count] for count in (1, 2, 3)
        }

    def repeat_key(self, place: JsonPlace) -> list[int]:
        """The tokens that would give an object a key that it has."""
        tokens = self._with_quotes[place.quotes_to_key]
        return [token for token, text in tokens if place.after(text) is None]


def _decode(raw: bytes) -> str:
    try:
        return str(json.loads(b'"' + raw + b'"', strict=False))
    except ValueError:
        return raw.decode("latin-1")
