"""The tokens of a vocabulary by their own bytes: a token may be half a character, which no text can say.

Three ways of writing bytes in a vocabulary are read: an alphabet of 256 printable characters (byte-level BPE), pieces
with a mark for the space and ``<0xE6>`` for single bytes (SentencePiece), and the bytes themselves (tiktoken).
"""

import codecs
import re
from collections.abc import Callable, Sequence
from typing import Any

from schemas.findings import LikelyToken, TokenLogprob

SPACE = "\u2581"
"""SentencePiece's mark for a space."""

LEAST_LOGPROB = -1e30
"""A token of a lower log-probability is one that a constraint forbids."""

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
"""Bytes that stand for themselves in the byte-level alphabet; the others, in order, are the characters from 256 on."""


def _make_alphabet() -> dict[str, int]:
    others = [byte for byte in range(256) if byte not in _PRINTABLE]
    return {chr(byte): byte for byte in _PRINTABLE} | {chr(256 + at): byte for at, byte in enumerate(others)}


_ALPHABET = _make_alphabet()


class Vocabulary:
    """The vocabulary of a tokenizer (of transformers, or of the same interface). ``size`` counts the model's token
    ids, which may be more than the tokenizer's."""

    def __init__(self, tokenizer: Any, *, size: int) -> None:
        self.size = size
        self._tokenizer = tokenizer
        self._added = {int(token): str(added) for token, added in tokenizer.added_tokens_decoder.items()}
        self._read = _choose_reader(tokenizer.get_vocab())
        self._bytes: dict[int, bytes | None] = {}

    @property
    def knows_bytes(self) -> bool:
        """Whether the tokens' own bytes can be read."""
        return self._read is not None

    def bytes_of(self, token: int) -> bytes | None:
        """A token's own bytes, none for an id without a token; None where the vocabulary cannot be read."""
        if token not in self._bytes:
            self._bytes[token] = self._find_bytes(token)
        return self._bytes[token]

    def describe(self, token: int, logprob: float) -> LikelyToken:
        """A token with its text, and its bytes where they are no text."""
        own = self.bytes_of(token)
        text = str(self._tokenizer.decode([token])) if own is None else own.decode(errors="replace")
        return make_token(text, logprob, own)

    def make_entry(self, token: int, logprob: float, best: Sequence[tuple[int, float]] = ()) -> TokenLogprob:
        """The entry of a token at its place, with the likeliest tokens there; impossible ones are left out."""
        own = self.describe(token, logprob)
        top = tuple(self.describe(other, value) for other, value in best if value > LEAST_LOGPROB)
        return TokenLogprob(token=own.token, logprob=logprob, bytes=own.bytes, top=top)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of some tokens, with their first space."""
        own = [self.bytes_of(token) for token in tokens]
        if None in own:
            return str(self._tokenizer.decode(list(tokens)))
        return b"".join(filter(None, own)).decode(errors="replace")

    def _find_bytes(self, token: int) -> bytes | None:
        if self._read is None:
            return None
        if token in self._added:
            return self._added[token].encode()
        piece = self._tokenizer.convert_ids_to_tokens(token) if token < len(self._tokenizer) else None
        if isinstance(piece, bytes):
            return piece
        return b"" if piece is None else self._read(str(piece))


class ByteDetokenizer:
    """Gives back text token by token, as mlx-lm's detokenizers do, from the tokens' own bytes. Theirs leave out a
    space at the beginning, which belongs to an answer that continues a text."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.last_segment = ""

    def add_token(self, token: int) -> None:
        """Take a token; ``last_segment`` is then the text that it completes."""
        self.last_segment = self._decoder.decode(self._vocabulary.bytes_of(token) or b"")

    def finalize(self) -> None:
        """End the text; ``last_segment`` is then what was held back, half a character as a replacement character."""
        self.last_segment = self._decoder.decode(b"", final=True)


def make_token(text: str, logprob: float, own: bytes | None) -> LikelyToken:
    """A token of which the bytes are ``own``, if they are known."""
    if own is None or own == text.encode():
        return LikelyToken(token=text, logprob=logprob)
    return LikelyToken(token=text, logprob=logprob, bytes=tuple(own))


def _choose_reader(pieces: Any) -> Callable[[str], bytes] | None:
    """How this vocabulary writes bytes, by its pieces; None when it is not known."""
    if SPACE in pieces or "<0x0A>" in pieces:
        return _read_sentencepiece
    if "\u0120" in pieces or any(isinstance(piece, bytes) for piece in pieces):  # the byte-level alphabet's space
        return _read_byte_level
    return None


def _read_sentencepiece(piece: str) -> bytes:
    match = _BYTE.fullmatch(piece)
    return bytes([int(match[1], 16)]) if match else piece.replace(SPACE, " ").encode()


def _read_byte_level(piece: str) -> bytes:
    if all(character in _ALPHABET for character in piece):
        return bytes(_ALPHABET[character] for character in piece)
    return piece.encode()
