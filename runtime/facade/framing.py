"""h11's parser, strict about where a message ends: who stands in between may have read another end, and then what one
reads as a body the other reads as the next request (RFC 9112, sections 2.2, 5.2 and 6)."""

import re
from collections.abc import Iterator
from typing import Any

import h11

_BARE_LF = re.compile(rb"(?<!\r)\n")
_FOLDED = re.compile(rb"\n[ \t]")
_END = b"\r\n\r\n"


class StrictConnection(h11.Connection):
    """The server's side of a connection. What h11 takes and others read in another way raises RemoteProtocolError: bare
    line feeds, lines that go on in the next one, and more than one length of a body."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER)
        self.head = b""
        """The last request's head; while it is not complete, what there is of it."""
        self._is_chunked = False
        self._received = b""

    def receive_data(self, data: bytes) -> None:
        """Take what the client sent."""
        super().receive_data(data)
        self._received = self._received[-len(_END) :] + data

    def next_event(self) -> Any:
        """The next event.

        Raises:
            RemoteProtocolError: this is no HTTP, or could be read in two ways.
        """
        is_head = self.their_state is h11.IDLE
        if is_head:
            self.head = self.trailing_data[0]
        event = super().next_event()
        if is_head and isinstance(event, h11.Request):
            self.head = self.head[: len(self.head) - len(self.trailing_data[0])]
            self._is_chunked = any(name == b"transfer-encoding" for name, _ in event.headers)
            if fault := find_ambiguity(self.head):
                raise h11.RemoteProtocolError(fault)
        elif isinstance(event, h11.EndOfMessage) and self._is_chunked:
            end = len(self._received) - len(self.trailing_data[0])
            if not self._received[:end].endswith(_END):
                raise h11.RemoteProtocolError("the body ends in a bare line feed")
        return event


def find_ambiguity(head: bytes) -> str | None:
    """Why a request's head could be read in two ways; None when it cannot."""
    if _BARE_LF.search(head):
        return "a line ends in a bare line feed"
    if _FOLDED.search(head):
        return "a header goes on in the next line"
    lengths = [value for name, value in _split_headers(head) if name == b"content-length"]
    if len(lengths) > 1 or any(b"," in length for length in lengths):
        return "more than one Content-Length"
    if lengths and any(name == b"transfer-encoding" for name, _ in _split_headers(head)):
        return "both Content-Length and Transfer-Encoding"
    return None


def _split_headers(head: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The headers' names in small letters, and their values."""
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        yield name.strip().lower(), value
