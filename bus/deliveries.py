"""What a stream delivers, kept apart from what the broker says of a delivery. Needs nats-py only.

nats-py takes every message with a header ``Status`` for the broker's word (no messages, request ended, nobody listens).
A publisher can write that header, too: such a message was passed over, delivered again for ever, or ended a reading.
"""

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import Header

_DELIVERED = b"$JS.ACK."
"""How the reply subject of every message begins that a consumer delivers; what the broker says itself has none."""

_BROKERS_OWN = (Header.STATUS.value, Header.DESCRIPTION.value)


class DeliveryClient(Client):  # type: ignore[misc]  # nats-py is not typed
    """A client whose delivered messages are without the headers with which the broker speaks."""

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None
    ) -> Msg:
        if headers and reply.startswith(_DELIVERED):
            headers = {name: value for name, value in headers.items() if name not in _BROKERS_OWN}
        return super()._build_message(sid, subject, reply, data, headers)
