"""From the queue into the batch: which adapters a request gets, what its caches may cost, and when it may join."""

import time
from collections.abc import Collection, Hashable, Sequence

from agents.inference.adapters.bank import BASE, AdapterBank
from agents.inference.mlx.prompt_cache import Cost
from agents.inference.mlx.work import Work
from agents.inference.scheduler import Running, Scheduler
from agents.inference.settings import InferenceSettings
from bus.metrics import degraded
from schemas.errors import KikiError


class Admission:
    """The scheduler in front of a bank of adapters.

    ``cost`` is a row's, ``max_bytes`` what the caches of all rows may come to need.
    """

    def __init__(self, settings: InferenceSettings, bank: AdapterBank, *, cost: Cost, max_bytes: int) -> None:
        self._bank, self.cost = bank, cost
        self.scheduler: Scheduler[Work] = Scheduler(
            max_rows=settings.max_batch,
            patience=settings.patience,
            max_keys=settings.max_mixed + 1,
            max_bytes=max_bytes,
        )
        self._ready: frozenset[Hashable] = frozenset()

    def enqueue(self, work: Work) -> None:
        """Have it wait; adapters that are not registered are left out and counted."""
        known = tuple(use for use in work.request.adapters if self._bank.registered(use.name))
        for use in work.request.adapters:
            if use not in known:
                degraded("adapter.missing", f"adapter '{use.name}' is not registered; the base answers instead")
        work.key, work.alone = known, not self._bank.mixable(known)
        work.bytes = self._need(work)
        self.scheduler.add(
            work,
            key=known,
            lane=work.request.lane,
            rows=work.size,
            now=time.monotonic(),
            alone=work.alone,
            bytes=work.bytes,
        )

    def admit(self, active: Sequence[Work]) -> list[Work]:
        """Who joins ``active`` now, with seats; one that cannot have its adapters is told, and only that one."""
        running = Running(
            keys=frozenset(work.key for work in active),
            ready=self._ready,
            alone=any(work.alone for work in active),
            rows=sum(work.size for work in active),
            bytes=sum(work.bytes for work in active),
        )
        seated: list[Work] = []
        for waiting in self.scheduler.admit(running=running, now=time.monotonic()):
            if self._seat(waiting.item, beside=[*active, *seated]):
                seated.append(waiting.item)
        return seated

    def mount(self, active: Sequence[Work]) -> None:
        """Put what the rows of the batch need into the model."""
        self._bank.mount({work.seat for work in active if work.seat is not None} or {BASE})
        self._ready = frozenset(work.key for work in active)

    def _need(self, work: Work) -> int:
        """Bytes of its caches when every row is as long as it may become."""
        return self.cost.of(work.length) * work.width

    def _seat(self, work: Work, *, beside: Collection[Work]) -> bool:
        try:
            work.seat = self._bank.seat(work.key, taken=taken(beside))
        except KikiError as error:
            work.tell(error)
            return False
        work.adapters, work.admitted_at = work.seat.uses, time.monotonic()
        return True


def taken(active: Collection[Work]) -> set[int]:
    """Slots that rows of the batch refer to."""
    return {work.seat.slot for work in active if work.seat is not None}
