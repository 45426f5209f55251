"""What the worker and the embedder can do, as they report it themselves; read at most every few seconds."""

import time
from dataclasses import dataclass

import anyio

from bus.connection import Bus
from runtime.catalogue import spellings
from schemas.calls import STATUS
from schemas.errors import KikiError
from schemas.status import StatusReply

KEPT_SECONDS = 5.0
"""Seconds for which a report is used before the agent is asked again."""

ANSWER_SECONDS = 0.5
"""Seconds that an agent has for its report. One that is away refuses at once; one that hangs holds a list up."""


@dataclass(frozen=True, kw_only=True)
class EmbedderModel:
    """The embedder's model: its name, the numbers of a vector, and the tokens of a text that it embeds.

    One that reports none of them has the agent's name, and None.
    """

    name: str
    dimensions: int | None
    max_tokens: int | None

    def answers_to(self, name: str) -> bool:
        """Whether a request means this model; letter case and a provider's prefix do not matter."""
        return bool(set(spellings(name)) & set(spellings(self.name)))


class Abilities:
    """Asks agents for their reports. What one has said last is used while it is away."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._lock = anyio.Lock()
        self._reports: dict[str, StatusReply] = {}
        self._fresh_until: dict[str, float] = {}

    async def read_context_tokens(self) -> int | None:
        """Tokens of the worker's context: prompt and answer together. None as long as no worker has said."""
        return _read_count(await self._read_report("inference"), "context_tokens")

    async def read_adapters(self) -> frozenset[str] | None:
        """The adapters that the worker has. None as long as no worker has said."""
        report = await self._read_report("inference")
        names = report.info.get("registered") if report is not None else None
        return None if names is None else frozenset(names.split())

    async def read_embedder(self) -> EmbedderModel | None:
        """The embedder's model; None as long as no embedder has said."""
        report = await self._read_report("embedder")
        if report is None:
            return None
        return EmbedderModel(
            name=report.info.get("model") or report.agent,
            dimensions=_read_count(report, "dimensions"),
            max_tokens=_read_count(report, "max_tokens"),
        )

    async def _read_report(self, agent: str) -> StatusReply | None:
        async with self._lock:
            if time.monotonic() >= self._fresh_until.get(agent, 0.0):
                await self._ask(agent)
                self._fresh_until[agent] = time.monotonic() + KEPT_SECONDS
        return self._reports.get(agent)

    async def _ask(self, agent: str) -> None:
        try:
            self._reports[agent] = await self._bus.request(STATUS.at(agent), None, timeout=ANSWER_SECONDS)
        except KikiError:
            return  # it is away or starts: /ready and /health say so


def _read_count(report: StatusReply | None, gauge: str) -> int | None:
    """A gauge as a count; None without one."""
    value = report.gauges.get(gauge, 0.0) if report is not None else 0.0
    return int(value) or None
