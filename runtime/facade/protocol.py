"""uvicorn's protocol of one connection, which refuses what is no HTTP in the shape of every other error, and ends a
connection whose client keeps it waiting."""

import asyncio
import sys
from typing import Any, Literal

import h11
import msgspec
from uvicorn.protocols.http.h11_impl import STATUS_PHRASES, H11Protocol

from bus import metrics
from runtime.facade.errors import RETRYABLE, HttpRefusal, describe_error_for
from runtime.facade.framing import StrictConnection
from runtime.facade.settings import FacadeSettings
from schemas.errors import InvalidInput, KikiError, Unavailable

DRAIN_SECONDS = 1.0
"""Seconds for which a refused sender may go on sending. Closing a connection with unread bytes resets it, and the
sender never sees the refusal."""

REFUSED_AT_ONCE = 64
"""Connections over the limit that are refused with a reply at the same time; more are closed without one."""

MENDS = {
    400: ("malformed_request", "this is no valid HTTP request"),
    414: ("uri_too_long", "the address is too long: shorten it"),
    431: ("headers_too_large", "the headers are too long: send fewer or shorter ones"),
    501: ("not_implemented", "this transfer encoding is not served: send the body plain or chunked"),
}
"""What is refused by status: the error's code, and what is wrong."""


class JsonProtocol(H11Protocol):
    """One connection. What the parser refuses is answered with an error object, and the connection ends.

    So it does when a request's head, or the rest of a body that no endpoint waits for, does not come in time, and when
    the client does not read its reply. uvicorn itself ends a connection that is idle between two requests.
    """

    def __init__(self, *args: Any, settings: FacadeSettings, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn = self._framing = StrictConnection()
        self._settings = settings
        self._refused = False
        self._owed: Literal["head", "body"] | None = None
        self._request_timer: asyncio.TimerHandle | None = None
        self._reply_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, or refuse it where there are too many."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # pause_writing says of every byte that is not read
        self._time_request()
        self._keep_limit()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        super().connection_lost(exc)
        for timer in (self._request_timer, self._reply_timer):
            if timer is not None:
                timer.cancel()

    def data_received(self, data: bytes) -> None:
        """Take what the client sent; what a refused one still sends is dropped."""
        if not self._refused:
            super().data_received(data)
            self._time_request()

    def on_response_complete(self) -> None:
        """The reply is complete: the rest of the request's body has its time now."""
        super().on_response_complete()
        self._time_request()

    def pause_writing(self) -> None:
        """Bytes of the reply wait for the client to read."""
        super().pause_writing()
        self._reply_timer = self.loop.call_later(self._settings.reply_timeout, self._give_up_reply)

    def resume_writing(self) -> None:
        """The client has read them."""
        super().resume_writing()
        if self._reply_timer is not None:
            self._reply_timer.cancel()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's signature
        """Refuse what the parser cannot read; called in the handler of its error."""
        self._refuse(_describe_fault(sys.exception(), rest=self.conn.trailing_data[0]))

    def _refuse(self, error: KikiError) -> None:
        """Reply with ``error``, unless a reply has begun, and end the connection."""
        self._refused = True
        self._time_request()
        if self.conn.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            self.transport.close()
            return
        self._write(error)
        if self.cycle is not None:  # the request whose body this was: nobody waits for its reply any more
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.loop.call_later(DRAIN_SECONDS, self.transport.close)

    def _write(self, error: KikiError) -> None:
        body = msgspec.json.encode(describe_error_for(_find_path(self._framing.head), error))
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        if error.status in RETRYABLE:
            headers.append(("retry-after", str(self._settings.retry_after)))
        response = h11.Response(status_code=error.status, headers=headers, reason=STATUS_PHRASES[error.status])
        for event in (response, h11.Data(data=body), h11.EndOfMessage()):
            self.transport.write(self.conn.send(event))

    def _time_request(self) -> None:
        """Give the client its time for what it owes."""
        owed = self._find_owed()
        if owed == self._owed:
            return
        self._owed = owed
        if self._request_timer is not None:
            self._request_timer.cancel()
        if owed is not None:
            seconds = self._settings.header_timeout if owed == "head" else self._settings.body_timeout
            self._request_timer = self.loop.call_later(seconds, self._give_up_request)

    def _find_owed(self) -> Literal["head", "body"] | None:
        """What the client is to send, and no endpoint waits for. An endpoint times the body that it reads."""
        if self._refused:
            return None
        if self.conn.their_state is h11.IDLE and self.timeout_keep_alive_task is None:
            return "head"
        return "body" if self.conn.their_state is h11.SEND_BODY and self.conn.our_state is h11.DONE else None

    def _give_up_request(self) -> None:
        metrics.count_degraded("facade.slow_client", f"the {self._owed} of a request did not come in time")
        if self._owed == "head" and self.conn.trailing_data[0]:
            seconds = self._settings.header_timeout
            text = f"the request's headers did not come within {seconds:g} s: send them faster."
            self._refuse(InvalidInput(text, code="request_timeout"))
        else:
            self._refused = True
            self.transport.close()

    def _give_up_reply(self) -> None:
        metrics.count_degraded("facade.slow_client", "a reply was not read in time")
        self.transport.abort()

    def _keep_limit(self) -> None:
        """Over the limit, end the connection that has been idle the longest; refuse this one where none is."""
        limit = self._settings.max_connections
        if len(self.connections) <= limit:
            return
        others = [each for each in self.connections if isinstance(each, JsonProtocol) and each.is_open]
        if len(others) <= limit:
            return
        idle = {each.timeout_keep_alive_task.when(): each for each in others if each.timeout_keep_alive_task}
        if idle:
            idle[min(idle)].timeout_keep_alive_handler()
            return
        metrics.count_degraded("facade.connections", f"there are more than {limit} connections")
        if len(self.connections) > limit + REFUSED_AT_ONCE:
            self._refused = True
            self.transport.abort()
        else:
            self._refuse(Unavailable(f"the facade has its {limit} connections: try again."))

    @property
    def is_open(self) -> bool:
        """Whether the connection is neither closing nor refused."""
        return not (self._refused or self.transport.is_closing())


def _find_path(head: bytes) -> str:
    """The path of a request's head; empty where there is none."""
    words = head.partition(b"\r\n")[0].split(b" ")
    return words[1].decode("latin-1").partition("?")[0] if len(words) > 1 else ""


def _describe_fault(fault: BaseException | None, *, rest: bytes) -> HttpRefusal:
    """The refusal of what the parser refused; ``rest`` are the bytes that it could not read."""
    status = getattr(fault, "error_status_hint", 400)
    if status == 431 and b"\n" not in rest:
        status = 414  # not even the first line has ended
    code, wrong = MENDS.get(status, MENDS[400])
    reason = str(fault).partition(": bytearray")[0]  # without the bytes, which may be a key
    return HttpRefusal(f"{wrong} ({reason}).", status=status if status in MENDS else 400, code=code)
