"""Admits requests from the queue into the batch: their adapters, what their caches may cost, and when they join."""

import time
from collections import Counter
from collections.abc import Collection, Hashable, Sequence

from agents.inference.adapters.bank import AdapterBank
from agents.inference.adapters.stacks import BASE
from agents.inference.mlx.prompt_cache import CacheCost
from agents.inference.mlx.work import Work
from agents.inference.scheduler import Running, Scheduler
from agents.inference.settings import InferenceSettings
from bus.metrics import count_degraded
from schemas.errors import KikiError


class Admission:
    """The scheduler in front of a bank of adapters.

    ``cost`` says how many bytes of cache a row needs; ``max_bytes`` is the limit for the caches of all rows.
    """

    def __init__(self, settings: InferenceSettings, bank: AdapterBank, *, cost: CacheCost, max_bytes: int) -> None:
        self._bank, self.cost = bank, cost
        self.scheduler: Scheduler[Work] = Scheduler(
            max_rows=settings.max_batch,
            patience=settings.patience,
            max_keys=settings.max_mixed + 1,
            max_bytes=max_bytes,
            fits=bank.fit_together,
        )
        self._ready: frozenset[Hashable] = frozenset()

    def enqueue(self, work: Work) -> None:
        """Queue the work; adapters that are not served are left out and counted."""
        uses = tuple(use for use in work.request.adapters if self._bank.registration.is_served(use.name))
        for use in work.request.adapters:
            if use not in uses:
                why = "not let through by the gates" if self._bank.is_registered(use.name) else "not registered"
                count_degraded("adapter.missing", f"adapter '{use.name}' is {why}; the base answers instead")
        work.key, work.alone = uses, not self._bank.mixable(uses)
        work.bytes = self._cache_bytes(work)
        self.scheduler.add(
            work,
            key=uses,
            lane=work.request.lane,
            rows=work.size,
            now=time.monotonic(),
            tenant=work.request.tenant,
            alone=work.alone,
            bytes=work.bytes,
        )

    def admit(self, active: Sequence[Work]) -> list[Work]:
        """The work that joins ``active`` now, with seats. Work whose adapters fail gets the error; the rest joins."""
        running = Running(
            keys=frozenset(work.key for work in active),
            ready=self._ready,
            alone=any(work.alone for work in active),
            rows=_count_rows(active),
            bytes=sum(work.bytes for work in active),
        )
        newcomers: list[Work] = []
        for waiting in self.scheduler.admit(running=running, now=time.monotonic()):
            if self._seat(waiting.item, beside=[*active, *newcomers]):
                newcomers.append(waiting.item)
        return newcomers

    def mount(self, active: Sequence[Work]) -> None:
        """Put the adapters of the batch's rows into the model."""
        self._bank.mount({work.seat for work in active if work.seat is not None} or {BASE})
        self._ready = frozenset(work.key for work in active)

    def _cache_bytes(self, work: Work) -> int:
        """Bytes of the work's caches when every row has reached its greatest length."""
        return self.cost.of(work.length) * work.width

    def _seat(self, work: Work, *, beside: Collection[Work]) -> bool:
        try:
            work.seat = self._bank.seat(work.key, busy_slots=busy_slots(beside))
        except KikiError as error:
            work.send(error)
            return False
        work.adapters, work.admitted_at = work.seat.uses, time.monotonic()
        return True


def _count_rows(active: Collection[Work]) -> Counter[str]:
    """Rows of each tenant."""
    rows: Counter[str] = Counter()
    for work in active:
        rows[work.request.tenant] += work.size
    return rows


def busy_slots(active: Collection[Work]) -> set[int]:
    """Slots that rows of the batch refer to."""
    return {work.seat.slot for work in active if work.seat is not None}
