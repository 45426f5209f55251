"""A NATS client that no message and no cancellation makes deaf. Needs nats-py only.

nats-py ends the task that reads the connection, with a line in the log and no other word, when it cannot make sense of
a header or a subject, or when the PONG comes that a cancelled ``flush`` waited for. And it takes every message with a
header ``Status`` for the broker's word (no messages, request ended, nobody listens), which a publisher can write, too:
such a message was passed over, delivered again for ever, or ended a reading.
"""

import asyncio
import logging
from collections.abc import Callable

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import Header

_log = logging.getLogger("bus")

_DELIVERED = b"$JS.ACK."
"""How the reply subject of every message begins that a consumer delivers; what the broker says itself has none."""

_BROKERS_OWN = (Header.STATUS.value, Header.DESCRIPTION.value)


class DeliveryClient(Client):  # type: ignore[misc]  # nats-py is not typed
    """Goes on reading whatever comes; delivered messages are without the headers with which the broker speaks.

    ``note`` is told of headers that nobody can read.
    """

    def __init__(self, note: Callable[[str], None] = _log.warning) -> None:
        super().__init__()
        self._note = note

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None
    ) -> Msg:
        if headers and reply.startswith(_DELIVERED):
            headers = {name: value for name, value in headers.items() if name not in _BROKERS_OWN}
        return super()._build_message(sid, _as_text(subject), _as_text(reply), data, headers)

    async def _process_headers(self, headers: bytes) -> dict[str, str] | None:
        try:
            parsed: dict[str, str] | None = await super()._process_headers(headers)
        except (ValueError, IndexError) as error:
            self._note(f"headers that nobody can read are left out: {error}")
            return None
        return parsed

    async def _process_pong(self) -> None:
        if self._pongs and self._pongs[0].done():  # whoever waited for it was cancelled
            self._pongs[0] = asyncio.get_running_loop().create_future()
        await super()._process_pong()


def _as_text(subject: bytes) -> bytes:
    """The subject with a mark in the place of every byte that is not UTF-8; the broker takes any bytes."""
    return subject.decode(errors="replace").encode()
