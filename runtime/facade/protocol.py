"""uvicorn's protocol of one connection, which refuses what is no HTTP in the shape of every other error."""

import sys
from typing import Any

import h11
import msgspec
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from runtime.facade.errors import HttpRefusal, describe_error

DRAIN_SECONDS = 1.0
"""Seconds for which a refused sender may go on sending. Closing a connection with unread bytes resets it, and the
sender never sees the refusal."""

MENDS = {
    400: ("malformed_request", "this is no valid HTTP request"),
    414: ("uri_too_long", "the address is too long: shorten it"),
    431: ("headers_too_large", "the headers are too long: send fewer or shorter ones"),
    501: ("not_implemented", "this transfer encoding is not served: send the body plain or chunked"),
}
"""What is refused by status: the error's code, and what is wrong."""


class JsonProtocol(H11Protocol):
    """One connection. What the parser refuses is answered with OpenAI's error object, and the connection ends."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn = _Framing(h11.SERVER)
        self._refused = False

    def data_received(self, data: bytes) -> None:
        """Take what the client sent; what a refused one still sends is dropped."""
        if not self._refused:
            super().data_received(data)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's signature
        """Refuse what the parser cannot read; called in the handler of its error."""
        fault = sys.exception()
        self._refused = True
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):  # a reply has begun: it cannot be another one
            self.transport.close()
            return
        self._write(_describe_fault(fault, rest=self.conn.trailing_data[0]))
        if self.cycle is not None:  # the request whose body this was: nobody waits for its reply any more
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.loop.call_later(DRAIN_SECONDS, self.transport.close)

    def _write(self, refusal: HttpRefusal) -> None:
        body = msgspec.json.encode(describe_error(refusal))
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        response = h11.Response(status_code=refusal.status, headers=headers, reason=STATUS_PHRASES[refusal.status])
        for event in (response, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event))


class _Framing(h11.Connection):
    """A parser that refuses a body of two lengths: who stands in between may have read the other one."""

    def next_event(self) -> Any:
        event = super().next_event()
        if isinstance(event, h11.Request) and {b"content-length", b"transfer-encoding"} <= {
            name for name, _ in event.headers
        }:
            raise h11.RemoteProtocolError("both Content-Length and Transfer-Encoding")
        return event


def _describe_fault(fault: BaseException | None, *, rest: bytes) -> HttpRefusal:
    """The refusal of what the parser refused; ``rest`` are the bytes that it could not read."""
    status = getattr(fault, "error_status_hint", 400)
    if status == 431 and b"\n" not in rest:
        status = 414  # not even the first line has ended
    code, wrong = MENDS.get(status, MENDS[400])
    reason = str(fault).partition(": bytearray")[0]  # without the bytes, which may be a key
    return HttpRefusal(f"{wrong} ({reason}).", status=status if status in MENDS else 400, code=code)
