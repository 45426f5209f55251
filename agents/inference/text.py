"""Splits decoded text into content, reasoning and tool calls, and ends it at a stop string.

Text arrives in pieces that may cut a marker anywhere, so whatever could still become a marker is held back.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

from schemas.findings import TokenLogprob

Kind = Literal["content", "reasoning", "tool"]


class Piece(NamedTuple):
    """Text that cannot change any more; of kind "tool" it is one call, without its marks."""

    kind: Kind
    text: str
    closed: bool = True
    """Of a tool call: whether its end mark was found."""
    tokens: tuple[TokenLogprob, ...] = ()
    """All tokens since the piece before, where their log-probabilities are asked for."""


def attach_tokens(pieces: list[Piece], tokens: Sequence[TokenLogprob], *, ended: bool) -> list[Piece]:
    """The pieces, of which the first carries the tokens. Where there is none, the tokens wait for the next piece; at
    the end of the answer an empty one carries them."""
    if not tokens or not (pieces or ended):
        return pieces
    first, *others = pieces or [Piece("content", "")]
    return [first._replace(tokens=tuple(tokens)), *others]


class TextFilter:
    """One candidate's text. Stop strings count in content only; they and all markers are never emitted.

    ``markers`` open and close the reasoning; None: it is not told from the rest.
    ``calls`` are the marks of a tool call; with an empty end mark a call goes on to the end of the answer, and with an
    empty one at its beginning the next call follows at once. ``begins`` is the kind of the first text: "reasoning"
    where the prompt already opened it. ``stopped`` turns true at a stop string, and nothing is emitted after it.
    """

    def __init__(
        self,
        *,
        stops: Iterable[str] = (),
        markers: tuple[str, str] | None = ("<think>", "</think>"),
        calls: tuple[str, str] | None = None,
        begins: Kind = "content",
    ) -> None:
        self._open, self._close = markers or ("", "")
        self._call_open, self._call_close = calls or ("", "")
        self._stops = tuple(stop for stop in stops if stop)
        self._kind: Kind = begins
        self._buffer = ""
        self._skip_blanks = False
        self.stopped = False

    def feed(self, text: str) -> list[Piece]:
        """Take decoded text; return the pieces that cannot be part of a marker."""
        self._buffer += text
        pieces: list[Piece] = []
        while self._has_text() and not self.stopped:
            marker, at = self._first_marker()
            if marker is None:
                keep = len(self._buffer) if self._kind == "tool" else self._pending_length()
                self._emit(pieces, self._buffer[: len(self._buffer) - keep])
                self._buffer = self._buffer[len(self._buffer) - keep :]
                break
            if self._kind == "tool":
                pieces.append(Piece("tool", self._buffer[:at]))  # an empty call is one too, and malformed
            else:
                self._emit(pieces, self._buffer[:at])
            self._buffer = self._buffer[at + len(marker) :]
            self._pass_marker(marker)
        return pieces

    def finish(self, *, cut: bool = False) -> list[Piece]:
        """The text ended without a stop string: return what was held back, unless it is the beginning of a reasoning
        marker, or of a call's mark where the text was ``cut`` off."""
        pieces: list[Piece] = []
        marks = filter(None, (self._open, self._close, self._call_open if cut else ""))
        if self._kind == "tool" and self._buffer and not self.stopped:
            pieces.append(Piece("tool", self._buffer, closed=False))
        elif self._buffer and not self.stopped and not any(mark.startswith(self._buffer) for mark in marks):
            self._emit(pieces, self._buffer)
        self._buffer = ""
        return pieces

    def _has_text(self) -> bool:
        """Whether the buffer holds text. Blank lines after reasoning or a call are dropped, and match no stop
        string."""
        if self._kind == "content" and self._skip_blanks:
            self._buffer = self._buffer.lstrip()
            self._skip_blanks = not self._buffer
        return bool(self._buffer)

    @property
    def _markers(self) -> tuple[str, ...]:
        if self._kind == "reasoning":
            return (self._close,)
        if self._kind == "tool":
            return (self._call_close,) if self._call_close else ()
        return (*filter(None, (self._open, self._call_open)), *self._stops)

    def _first_marker(self) -> tuple[str | None, int]:
        """The marker that begins first, and its place; of several in one place, the longest. None and -1 without
        one."""
        hits = [(self._buffer.find(marker), -len(marker), marker) for marker in self._markers]
        hits = [hit for hit in hits if hit[0] >= 0]
        if not hits:
            return None, -1
        at, _, marker = min(hits)
        return marker, at

    def _pending_length(self) -> int:
        """Length of the longest tail that could still become a marker."""
        longest = max(map(len, self._markers), default=1) - 1
        for size in range(min(longest, len(self._buffer)), 0, -1):
            if any(marker.startswith(self._buffer[-size:]) for marker in self._markers):
                return size
        return 0

    def _pass_marker(self, marker: str) -> None:
        if self._kind == "tool" and not self._call_open:
            return
        if self._kind != "content":
            self._kind, self._skip_blanks = "content", True
        elif marker == self._open:
            self._kind = "reasoning"
        elif marker == self._call_open:
            self._kind = "tool"
        else:
            self.stopped, self._buffer = True, ""

    def _emit(self, pieces: list[Piece], text: str) -> None:
        if text:
            pieces.append(Piece(self._kind, text))
