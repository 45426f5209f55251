"""What of the decoded text the reader sees: up to a stop string, without the model's reasoning and its tool calls.

Text arrives in pieces that may cut a marker anywhere, so whatever could still become a marker is held back.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

Kind = Literal["content", "reasoning", "tool"]


class Piece(NamedTuple):
    """Text that is certain now; of kind "tool" it is one call, without its marks."""

    kind: Kind
    text: str
    closed: bool = True
    """Of a call: whether its end mark came."""


class TextFilter:
    """One candidate's text. Stop strings count in content only; they and all markers are never emitted.

    ``thinking`` says that the prompt already opened the reasoning, ``calls`` are the marks of a tool call (an empty end
    is that of the answer), ``begins`` is the kind of the first text. ``stopped`` turns true at a stop string, and
    nothing is emitted after it.
    """

    def __init__(
        self,
        *,
        stops: Iterable[str] = (),
        markers: tuple[str, str] = ("<think>", "</think>"),
        calls: tuple[str, str] | None = None,
        begins: Kind = "content",
    ) -> None:
        self._open, self._close = markers
        self._call_open, self._call_close = calls or ("", "")
        self._stops = tuple(stop for stop in stops if stop)
        self._kind: Kind = begins
        self._held = ""
        self._skip_blanks = False
        self.stopped = False

    def feed(self, text: str) -> list[Piece]:
        """Take decoded text, give back what is certain of it."""
        self._held += text
        found: list[Piece] = []
        while self._has_text() and not self.stopped:
            marker, at = self._first_marker()
            if marker is None:
                keep = len(self._held) if self._kind == "tool" else self._could_begin()
                self._emit(found, self._held[: len(self._held) - keep])
                self._held = self._held[len(self._held) - keep :]
                break
            if self._kind == "tool":
                found.append(Piece("tool", self._held[:at]))  # an empty call is one too, and malformed
            else:
                self._emit(found, self._held[:at])
            self._held = self._held[at + len(marker) :]
            self._cross(marker)
        return found

    def finish(self) -> list[Piece]:
        """The end came without a stop string: what was held back is text, unless it began a reasoning marker."""
        found: list[Piece] = []
        markers = (self._open, self._close)
        if self._kind == "tool" and self._held and not self.stopped:
            found.append(Piece("tool", self._held, closed=not self._call_close))
        elif self._held and not self.stopped and not any(marker.startswith(self._held) for marker in markers):
            self._emit(found, self._held)
        self._held = ""
        return found

    def _has_text(self) -> bool:
        """Whether something is held; blank lines after reasoning and after a call are neither text nor a stop."""
        if self._kind == "content" and self._skip_blanks:
            self._held = self._held.lstrip()
            self._skip_blanks = not self._held
        return bool(self._held)

    @property
    def _markers(self) -> tuple[str, ...]:
        if self._kind == "reasoning":
            return (self._close,)
        if self._kind == "tool":
            return (self._call_close,) if self._call_close else ()
        return (self._open, *((self._call_open,) if self._call_open else ()), *self._stops)

    def _first_marker(self) -> tuple[str | None, int]:
        """The marker that begins first; of several that begin there, the longest."""
        hits = [(self._held.find(marker), -len(marker), marker) for marker in self._markers]
        hits = [hit for hit in hits if hit[0] >= 0]
        if not hits:
            return None, -1
        at, _, marker = min(hits)
        return marker, at

    def _could_begin(self) -> int:
        """Length of the longest tail that could still become a marker."""
        longest = max(map(len, self._markers)) - 1
        for size in range(min(longest, len(self._held)), 0, -1):
            if any(marker.startswith(self._held[-size:]) for marker in self._markers):
                return size
        return 0

    def _cross(self, marker: str) -> None:
        if self._kind != "content":
            self._kind, self._skip_blanks = "content", True
        elif marker == self._open:
            self._kind = "reasoning"
        elif marker == self._call_open:
            self._kind = "tool"
        else:
            self.stopped, self._held = True, ""

    def _emit(self, found: list[Piece], text: str) -> None:
        if text:
            found.append(Piece(self._kind, text))
