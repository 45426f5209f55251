"""What the router knows of sessions whose clients send their new message alone: each conversation, for an hour."""

import time
from collections import OrderedDict
from contextlib import aclosing
from dataclasses import dataclass

import numpy as np

from agents.router.dialogue import Conversation
from bus import topology
from bus.connection import Bus
from bus.stream import measure_stream, read_stream
from schemas.codec import decode
from schemas.envelope import Envelope
from schemas.errors import InvalidEvent
from schemas.events import QueryRouted

MAX_SESSIONS = 4096
"""Sessions that are remembered, the latest."""

READ_BACK = 4096
"""Messages of TURNS that a starting router looks through, the latest, for the turns that were routed before."""

Key = tuple[str, str, str]


@dataclass(frozen=True)
class _Entry:
    created_at: float
    conversation: Conversation


class Sessions:
    """The conversations of the latest sessions. A session belongs to its tenant and user: no other one reads it."""

    def __init__(self) -> None:
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()

    def find(self, envelope: Envelope) -> Conversation:
        """The conversation of the envelope's session so far; an empty one when there is none, or an old one."""
        entry = self._entries.get(_key(envelope))
        if entry is None or time.time() - entry.created_at > topology.TURN_MAX_AGE:
            return Conversation()
        return entry.conversation

    def note(self, envelope: Envelope, conversation: Conversation) -> None:
        """Remember the conversation after a turn, unless a later turn of its session is known."""
        key = _key(envelope)
        if (known := self._entries.get(key)) is not None and known.created_at > envelope.created_at:
            return
        self._entries[key] = _Entry(envelope.created_at, conversation)
        self._entries.move_to_end(key)
        while len(self._entries) > MAX_SESSIONS:
            self._entries.popitem(last=False)

    def note_event(self, data: bytes) -> None:
        """Remember what a stored or passing ``query.routed`` says; another router may have published it.

        Raises:
            InvalidEvent: the bytes are no such event.
        """
        event = decode(QueryRouted, data)
        route = event.route
        if route.embedding:  # without one no domains were scored, and the session stays what it was
            running = {domain.name: domain.score for domain in route.running}
            self.note(event.envelope, Conversation(running, np.array(route.embedding, dtype=np.float32)))

    async def read_back(self, bus: Bus) -> None:
        """Read the turns that were routed before this router started.

        Raises:
            Unavailable: the broker is away.
        """
        last = (await measure_stream(bus, topology.TURNS)).last_seq
        subject = bus.subjects.stage(QueryRouted.subject)
        messages = read_stream(bus, topology.TURNS, [subject], after=max(0, last - READ_BACK), until=last)
        async with aclosing(messages):
            async for message in messages:
                try:
                    self.note_event(message.data)
                except InvalidEvent:
                    continue  # a stranger's; who reads it next counts it


def _key(envelope: Envelope) -> Key:
    return (envelope.tenant, envelope.user, envelope.session_id)
