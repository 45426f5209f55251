"""The clients of a soak: they ask, try again with their key as stock clients do, and note all that they see.

Every client is another user of one of three tenants. Most hold dialogues of a few turns and send only the new message;
some ask without a session, some go away before the answer comes, and some have a finished dialogue forgotten.
"""

import itertools
import json
import random
import time
from dataclasses import dataclass, field
from typing import Any

import anyio
import httpx

from runtime.soak.history import (
    AnswerGiven,
    Mark,
    QuestionAsked,
    RequestAbandoned,
    RequestLost,
    RequestRefused,
    SessionForgotten,
    SoakHistory,
)
from schemas.errors import RETRYABLE_CODES

TENANTS = ("ada", "bob", "cyd")

KEYS = {f"key-of-{tenant}": tenant for tenant in TENANTS}
"""The facade's keys: bearer key to tenant."""

TURN_SECONDS = 60.0
"""Seconds that a turn of the soak may take."""

SILENT_SECONDS = TURN_SECONDS + 60.0
"""Seconds after which a request without an end is silent: a turn's, and those of a facade that is stopped meanwhile."""

RETRYABLE_STATUSES = frozenset({429, 503, 504})

WORDS = "kettle harbour violin glacier lantern saffron marble thicket compass orchard anvil ferry quartz meadow"


class Interrupted(Exception):
    """A stream ended before its end."""


def draw_question(mark: str, dice: random.Random) -> str:
    """A question with its mark, and with words by which the memory finds it."""
    return f"Please keep {mark}: {' '.join(dice.choices(WORDS.split(), k=dice.randint(3, 12)))}"


@dataclass
class SoakClient:
    """One user. ``holds_dialogues``: its questions belong to sessions. ``goes_away``: it does not wait for answers."""

    tenant: str
    user: str
    holds_dialogues: bool
    goes_away: bool
    url: str
    history: SoakHistory
    dice: random.Random
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)
    sessions: "itertools.count[int]" = field(default_factory=itertools.count)
    keys: dict[str, str] = field(default_factory=dict)

    async def run(self, stop: anyio.Event) -> None:
        """Ask until ``stop`` is set; what is asked then is still waited for."""
        async with httpx.AsyncClient(base_url=self.url, timeout=SILENT_SECONDS) as http:
            while not stop.is_set():
                if self.holds_dialogues:
                    await self._hold_dialogue(http, stop)
                elif self.goes_away:
                    await self._ask_and_go(http)
                else:
                    await self._ask(http, session="")
                await anyio.sleep(self.dice.uniform(0.0, 0.4))

    async def _hold_dialogue(self, http: httpx.AsyncClient, stop: anyio.Event) -> None:
        session = f"s-{self.user}-{next(self.sessions)}"
        for _ in range(self.dice.randint(2, 7)):
            await self._ask(http, session=session)
            if stop.is_set():
                return
        if self.dice.random() < 0.15:
            await self._forget(http, session)

    async def _ask(self, http: httpx.AsyncClient, *, session: str) -> None:
        mark = self._new_mark()
        body = self._body(mark, session)
        self.history.add(QuestionAsked(mark=mark, session=session))
        while not await self._try(http, mark, body, session=session):
            await anyio.sleep(self.dice.uniform(0.1, 0.5))
        if self.dice.random() < 0.05:  # the answer got lost on its way, so the client believes
            await self._try(http, mark, body, session=session)

    async def _ask_and_go(self, http: httpx.AsyncClient) -> None:
        mark = self._new_mark()
        self.history.add(QuestionAsked(mark=mark, session=""))
        with anyio.move_on_after(self.dice.uniform(0.0, 1.5)) as scope:
            body = self._body(mark, "")
            while not await self._try(http, mark, body, session=""):
                await anyio.sleep(0.1)
        if scope.cancelled_caught:
            self.history.add(RequestAbandoned(mark=mark))

    def _new_mark(self) -> str:
        return str(Mark(self.tenant, self.user, next(self.numbers)))

    def _body(self, mark: str, session: str) -> dict[str, Any]:
        history = {"history": "session"} if session else {}
        return {
            "model": self.dice.choice(("micro-kiki-fast", "micro-kiki-fast", "micro-kiki")),
            "messages": [{"role": "user", "content": draw_question(mark, self.dice)}],
            "user": self.user,
            "stream": self.dice.random() < 0.4,
            "kiki": history,
        }

    async def _try(self, http: httpx.AsyncClient, mark: str, body: dict[str, Any], *, session: str) -> bool:
        """Ask once; whether it was answered. What came instead is noted."""
        headers = {"Authorization": f"Bearer key-of-{self.tenant}", "Idempotency-Key": self.keys.get(mark, mark)}
        if session:
            headers["X-Session-Id"] = session
        began = time.monotonic()
        try:
            async with http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as reply:
                if reply.status_code == 200:
                    text = await _read_stream(reply) if body["stream"] else await _read_body(reply)
                    seconds = time.monotonic() - began
                    turn_id = reply.headers["x-turn-id"]
                    self.history.add(AnswerGiven(mark=mark, turn_id=turn_id, text=text, seconds=seconds))
                    return True
                self._note_refusal(mark, reply.status_code, await reply.aread(), time.monotonic() - began)
        except (httpx.TransportError, Interrupted) as error:
            seconds, silent = time.monotonic() - began, isinstance(error, httpx.ReadTimeout)
            self.history.add(RequestLost(mark=mark, error=repr(error), silent=silent, seconds=seconds))
        except _StreamFailed as failure:
            self._note_refusal(mark, 200, failure.body, time.monotonic() - began)
        return False

    def _note_refusal(self, mark: str, status: int, body: bytes, seconds: float) -> None:
        try:
            error = json.loads(body)["error"]
            code, message = error["code"], error["message"]
        except (ValueError, KeyError, TypeError):
            code, message = "", body.decode(errors="replace")[:300]
        if "send a new key" in message and status == 429:  # all turns of the old one have failed
            self.keys[mark] = f"{mark}-{len(self.history.moments)}"
        retryable = status in (*RETRYABLE_STATUSES, 200) and code in RETRYABLE_CODES
        self.history.add(
            RequestRefused(
                mark=mark, status=status, code=code or "", message=message, retryable=retryable, seconds=seconds
            )
        )

    async def _forget(self, http: httpx.AsyncClient, session: str) -> None:
        """Have a session forgotten; tried until it is done."""
        headers = {"Authorization": f"Bearer key-of-{self.tenant}", "X-User-Id": self.user}
        while True:
            try:
                reply = await http.delete(f"/v1/sessions/{session}", headers=headers)
            except httpx.TransportError:
                await anyio.sleep(0.5)
                continue
            if reply.status_code in (200, 404):
                self.history.add(SessionForgotten(tenant=self.tenant, user=self.user, session=session))
                return
            self._note_refusal(f"forgetting {session}", reply.status_code, reply.content, 0.0)
            await anyio.sleep(0.5)


class _StreamFailed(Exception):
    """A stream that told of an error instead of going on."""

    def __init__(self, body: bytes) -> None:
        super().__init__(body)
        self.body = body


async def _read_body(reply: httpx.Response) -> str:
    return str(json.loads(await reply.aread())["choices"][0]["message"]["content"])


async def _read_stream(reply: httpx.Response) -> str:
    """The text of a streamed answer.

    Raises:
        Interrupted: the stream ended before its end was told.
        _StreamFailed: it told of an error.
    """
    text = ""
    async for line in reply.aiter_lines():
        if line == "data: [DONE]":
            return text
        if line.startswith("data: "):
            chunk = json.loads(line.removeprefix("data: "))
            if "error" in chunk:
                raise _StreamFailed(line.removeprefix("data: ").encode())
            text += "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])
    raise Interrupted(f"the stream ended after {len(text)} characters")


def make_clients(url: str, history: SoakHistory, dice: random.Random, *, count: int) -> list[SoakClient]:
    """``count`` clients: of eight, five hold dialogues, two ask without a session, one goes away."""
    return [
        SoakClient(
            tenant=TENANTS[number % len(TENANTS)],
            user=f"u{number}",
            holds_dialogues=number % 8 < 5,
            goes_away=number % 8 == 7,
            url=url,
            history=history,
            dice=random.Random(dice.random()),
        )
        for number in range(count)
    ]
