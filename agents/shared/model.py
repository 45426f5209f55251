"""The calls to the model that one stage makes for one turn: bounded in time and number, and accounted for."""

import contextlib
import math
import time
from collections.abc import Iterator, Sequence

import anyio

from bus.connection import Bus
from schemas.chat import Message, Sampling, Usage
from schemas.envelope import Envelope
from schemas.errors import DeadlineExceeded, StageFailed
from schemas.findings import AdapterUse, Candidate, Cost, RecalledEpisode
from schemas.jobs import JobResult


class Consultation:
    """Asks the model on the auxiliary lane. ``usage`` and ``compute`` grow with every answer.

    Args:
        timeout: seconds that one call may take.
        reserve: seconds before the turn's deadline that are left for the following stages.
        at_once: how many calls may be in flight at the same time.
    """

    def __init__(
        self,
        bus: Bus,
        envelope: Envelope,
        *,
        timeout: float,
        reserve: float,
        at_once: int = 1,
    ) -> None:
        self._bus = bus
        self._envelope = envelope
        self._timeout = timeout
        self._reserve = reserve
        self._slots = anyio.Semaphore(at_once)
        self._in_flight = 0
        self._in_flight_since = 0.0
        self._wait_seconds = 0.0
        self._work_seconds = 0.0
        self.usage = Usage()
        self.costs: tuple[Cost, ...] = ()

    @property
    def compute(self) -> float:
        """Seconds of model time: the sum over all calls, but no more than the time spent waiting for them.

        Calls that the worker decodes in one batch each report the whole batch, so their sum may exceed the
        wall time in which at least one was in flight.
        """
        return min(self._wait_seconds, self._work_seconds)

    @property
    def seconds_left(self) -> float:
        """Seconds until the reserve begins."""
        return self._envelope.remaining - self._reserve

    async def score(
        self,
        messages: tuple[Message, ...],
        choices: tuple[str, ...],
        *,
        adapters: tuple[AdapterUse, ...] = (),
        recall: tuple[RecalledEpisode, ...] = (),
    ) -> dict[str, float]:
        """Total natural-log probability of each choice as the continuation of ``messages``.

        Raises:
            KikiError: the worker refused, no answer came in time, or it did not score every choice.
        """
        result = await self._ask(messages, adapters=adapters, choices=choices, recall=recall)
        return _check_scores(result, choices, 1)[0]

    async def score_ballots(
        self,
        messages: tuple[Message, ...],
        ballots: Sequence[tuple[Message, ...]],
        choices: tuple[str, ...],
        *,
        adapters: tuple[AdapterUse, ...] = (),
        recall: tuple[RecalledEpisode, ...] = (),
    ) -> list[dict[str, float]]:
        """The scores of each of ``ballots``, as :meth:`score` gives them; one job. Each ballot continues ``messages``.

        ``recall``: the episodes that the turn's own prompt quotes; with them the worker reuses what it cached of it.

        Raises:
            KikiError: as :meth:`score`.
        """
        all_ballots = tuple(ballots)
        result = await self._ask(messages, adapters=adapters, choices=choices, ballots=all_ballots, recall=recall)
        return _check_scores(result, choices, len(all_ballots))

    @contextlib.contextmanager
    def step(self, name: str) -> Iterator[None]:
        """The calls made in this context become one :class:`Cost` in ``costs``; without a call none is added."""
        compute, tokens = self.compute, self.usage.total_tokens
        try:
            yield
        finally:
            if self.usage.total_tokens > tokens:
                self.costs += (
                    Cost(step=name, compute=self.compute - compute, tokens=self.usage.total_tokens - tokens),
                )

    async def write(
        self,
        messages: tuple[Message, ...],
        *,
        max_tokens: int,
        seed: int = 0,
        adapters: tuple[AdapterUse, ...] = (),
        recall: tuple[RecalledEpisode, ...] = (),
        enhance: bool = False,
    ) -> Candidate:
        """One text, decoded greedily; by the base model without ``adapters``.

        ``enhance``: with the worker's factor on the model's bias-knowledge neurons.

        Raises:
            KikiError: the worker refused, no answer came in time, or there is no text in it.
        """
        sampling = Sampling(max_tokens=max_tokens, temperature=0.0, seed=seed)
        result = await self._ask(messages, sampling=sampling, adapters=adapters, recall=recall, enhance=enhance)
        if not result.candidates or not result.candidates[0].text.strip():
            raise StageFailed("the model answered with no text.")
        return result.candidates[0]

    async def _ask(
        self,
        messages: tuple[Message, ...],
        *,
        adapters: tuple[AdapterUse, ...] = (),
        sampling: Sampling | None = None,
        choices: tuple[str, ...] = (),
        ballots: tuple[tuple[Message, ...], ...] = (),
        recall: tuple[RecalledEpisode, ...] = (),
        enhance: bool = False,
    ) -> JobResult:
        async with self._slots:
            if self.seconds_left <= 0:
                raise DeadlineExceeded("too little of the turn's time is left to ask the model.")
            with self._count_waiting():
                result = await self._bus.ask(
                    self._envelope,
                    lane="auxiliary",
                    messages=messages,
                    adapters=adapters,
                    sampling=sampling,
                    choices=choices,
                    ballots=ballots,
                    recall=recall,
                    enhance=enhance,
                    timeout=min(self._timeout, self.seconds_left),
                )
        self._work_seconds += result.compute
        self.usage += Usage(
            prompt_tokens=result.prompt_tokens,
            completion_tokens=sum(candidate.usage.completion_tokens for candidate in result.candidates),
        )
        return result

    @contextlib.contextmanager
    def _count_waiting(self) -> Iterator[None]:
        """Add to the wait the time during which at least one call is in flight; calls may overlap."""
        if self._in_flight == 0:
            self._in_flight_since = time.monotonic()
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1
            if self._in_flight == 0:
                self._wait_seconds += time.monotonic() - self._in_flight_since


def _check_scores(result: JobResult, choices: tuple[str, ...], count: int) -> list[dict[str, float]]:
    """The scores of ``count`` ballots.

    Raises:
        StageFailed: scores are missing, or not finite.
    """
    complete = all(set(row) == set(choices) and all(map(math.isfinite, row.values())) for row in result.scores)
    if len(result.scores) != count or not complete:
        raise StageFailed(
            f"the model scored {result.scores}, expected {count} times a finite number for each of {choices}."
        )
    return [{choice: row[choice] for choice in choices} for row in result.scores]
