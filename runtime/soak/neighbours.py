"""Sibling services of a soak, on the bus: one asks there, one consumes the record as dream-of-kiki does."""

import itertools
import random
import time
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

import anyio

from bus.client import Client, connect
from bus.connection import BusSettings
from runtime.soak.clients import TURN_SECONDS, draw_question
from runtime.soak.history import (
    AnswerGiven,
    Mark,
    QuestionAsked,
    RecordsConsumed,
    RequestAbandoned,
    RequestRefused,
    SoakHistory,
)
from schemas.errors import KikiError, Unavailable

NAME = "soak-reader"

FETCH_LIMIT = 16


def open_client(broker: BusSettings) -> AbstractAsyncContextManager[Client]:
    """A client's connection, which comes back by itself."""
    return connect(broker.url, name=NAME, login=broker.login, max_reconnect_attempts=-1)


@dataclass
class BusAsker:
    """Asks on the bus, one turn after the other. What fails is not asked again: there are no keys on the bus."""

    broker: BusSettings
    history: SoakHistory
    dice: random.Random
    tenant: str = "ada"
    user: str = "bus"
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    async def run(self, stop: anyio.Event) -> None:
        """Ask until ``stop`` is set."""
        while not stop.is_set():
            try:
                async with open_client(self.broker) as client:
                    while not stop.is_set():
                        await self._ask(client)
                        await anyio.sleep(self.dice.uniform(0.0, 1.0))
            except Unavailable:  # the broker is away
                await anyio.sleep(0.5)

    async def _ask(self, client: Client) -> None:
        mark = str(Mark(self.tenant, self.user, next(self.numbers)))
        self.history.add(QuestionAsked(mark=mark, session=""))
        began, question = time.monotonic(), draw_question(mark, self.dice)
        try:
            async with client.turn(
                question, model="micro-kiki-fast", tenant=self.tenant, user=self.user, timeout=TURN_SECONDS
            ) as turn:
                text = "".join([piece async for piece in turn.text()])
        except KikiError as error:
            self.history.add(RequestAbandoned(mark=mark))
            self.history.add(
                RequestRefused(
                    mark=mark,
                    status=0,
                    code=error.code,
                    message=error.message,
                    retryable=error.retryable,
                    seconds=time.monotonic() - began,
                )
            )
        else:
            seconds = time.monotonic() - began
            self.history.add(AnswerGiven(mark=mark, turn_id=turn.id, text=text, seconds=seconds))


@dataclass
class RecordReader:
    """A registered service: it fetches the record in order and marks what it has, as often as that must be tried."""

    broker: BusSettings
    history: SoakHistory
    drained: anyio.Event = field(default_factory=anyio.Event)

    async def run(self, settled: anyio.Event) -> None:
        """Consume until the record is ``settled`` and nothing of it is left; then ``drained`` is set."""
        runs = itertools.count()
        while not self.drained.is_set():
            try:
                async with open_client(self.broker) as client:
                    await self._register(client)
                    while not self.drained.is_set():
                        is_last = settled.is_set()
                        if not await self._consume(client, f"run-{next(runs)}") and is_last:
                            self.drained.set()
            except KikiError as error:
                if not error.retryable:
                    self.history.add(
                        RequestRefused(
                            mark=NAME, status=0, code=error.code, message=error.message, retryable=False, seconds=0.0
                        )
                    )
                await anyio.sleep(0.5)

    async def _register(self, client: Client) -> None:
        """Register, unless an earlier connection has."""
        try:
            await client.register(NAME)
        except KikiError as error:
            if error.code != "name_taken":
                raise

    async def _consume(self, client: Client, run: str) -> int:
        """Fetch and mark the next records; how many there were."""
        records = await client.fetch(NAME, limit=FETCH_LIMIT, wait=2.0)
        if not records:
            return 0
        ids = [record.id for record in records]
        while True:
            try:
                reply = await client.mark_consumed(NAME, ids, run)
            except KikiError as error:
                if not error.retryable:
                    raise
                await anyio.sleep(0.2)  # whether it was marked nobody knows; the same run may ask again
                continue
            consumed = tuple(number for number in ids if number not in reply.forgotten)
            self.history.add(RecordsConsumed(ids=consumed))
            return len(records)
