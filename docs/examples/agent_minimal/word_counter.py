"""Counts the words of all answers.

``kiki run word_counter:WordCounter`` in this folder runs it, and ``nats request kiki.svc.words.count ''`` asks it.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from bus.agent import BaseAgent, Endpoint
from bus.handler import Delivery, Handler
from bus.topology import ANSWERS
from schemas.calls import Service
from schemas.events import AnswerReady


class WordCount(msgspec.Struct):
    """How many answers there were, and their words."""

    answers: int = 0
    words: int = 0


WORDS_COUNT = Service("words.count", type(None), WordCount)


class WordCounter(BaseAgent):
    """Reads every answer once, also those that were given while it was away."""

    name = "words"

    def __init__(self) -> None:
        self.count = WordCount()

    def handlers(self) -> Sequence[Handler[Any]]:
        """Reads ``answer.ready``. The turns have ended, so their deadlines do not matter."""
        return [Handler(stage="words", event=AnswerReady, handle=self.add, stream=ANSWERS, until_deadline=False)]

    def endpoints(self) -> Sequence[Endpoint]:
        """Answers ``kiki.svc.words.count``."""
        return [Endpoint(WORDS_COUNT, self.report)]

    async def add(self, event: AnswerReady, _: Delivery) -> None:
        """Count one answer."""
        self.count = WordCount(self.count.answers + 1, self.count.words + len(event.text.split()))

    async def report(self, _: None) -> WordCount:
        """The count so far."""
        return self.count
