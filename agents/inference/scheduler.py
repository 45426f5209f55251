"""Decides which work decodes next. Pure: plain structs in, plain structs out, no clock and no model.

Work for up to ``max_keys`` sets of adapters decodes in one batch; a further set, or one that cannot be mixed, has to
wait until rows have left. So the running sets are kept as long as that is fair: each piece of work is due ``patience``
seconds after it arrived, and overdue work goes first, in the order in which it was due. Work that is not overdue is
ordered by lane, then by whether its set is ready, then by arrival.
"""

from collections.abc import Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from schemas.jobs import LANES, Lane

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Waiting(Generic[T]):
    """A piece of work: ``rows`` of the batch for adapters ``key``; ``due`` in seconds of a monotonic clock.

    ``alone``: its adapters cannot share a batch with others. ``bytes``: of cache that it may need at most.
    """

    item: T
    key: Hashable
    lane: Lane
    rows: int
    due: float
    number: int
    alone: bool = False
    bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Running:
    """The batch now: its ``keys``, rows, and the bytes of cache promised to these rows.

    ``alone``: its one key cannot share the batch. ``ready`` are keys whose adapters are in the model already.
    """

    keys: frozenset[Hashable] = frozenset()
    ready: frozenset[Hashable] = frozenset()
    alone: bool = False
    rows: int = 0
    bytes: int = 0


class Scheduler(Generic[T]):
    """The queue in front of the batch. ``patience`` is in seconds, in the order of the lanes.

    ``max_keys``: sets of adapters in one batch; ``max_bytes``: of the caches of all rows; None for no limit.
    """

    def __init__(
        self, *, max_rows: int, patience: Sequence[float], max_keys: int = 1, max_bytes: int | None = None
    ) -> None:
        self.max_rows, self.max_keys, self.max_bytes = max_rows, max_keys, max_bytes
        self.patience = dict(zip(LANES, patience, strict=True))
        self._waiting: list[Waiting[T]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def depth(self, lane: Lane) -> int:
        """Number of waiting pieces of one lane."""
        return sum(waiting.lane == lane for waiting in self._waiting)

    def items(self) -> list[T]:
        """All work that waits."""
        return [waiting.item for waiting in self._waiting]

    def add(
        self, item: T, *, key: Hashable, lane: Lane, rows: int, now: float, alone: bool = False, bytes: int = 0
    ) -> None:
        """Queue a piece of work.

        Raises:
            ValueError: it has more rows than the batch can ever hold.
        """
        if not 1 <= rows <= self.max_rows:
            raise ValueError(f"{rows} rows; the batch holds 1 to {self.max_rows}.")
        self._count += 1
        due = now + self.patience[lane]
        self._waiting.append(
            Waiting(item=item, key=key, lane=lane, rows=rows, due=due, number=self._count, alone=alone, bytes=bytes)
        )

    def discard(self, items: Iterable[T]) -> None:
        """Remove work that nobody waits for any more."""
        unwanted = list(items)
        self._waiting = [waiting for waiting in self._waiting if waiting.item not in unwanted]

    def admit(self, *, running: Running, now: float) -> list[Waiting[T]]:
        """Take out the work that joins the batch now, in order.

        Admission ends at the first piece that cannot join, so that it is not overtaken for ever. With an empty batch
        the first piece always joins, even if it needs more than ``max_bytes``.
        """
        newcomers: list[Waiting[T]] = []
        for waiting in self._rank_waiting(running.keys | running.ready, now):
            if not self._joins(waiting, running):
                break
            newcomers.append(waiting)
            running = Running(
                keys=running.keys | {waiting.key},
                alone=running.alone or waiting.alone,
                rows=running.rows + waiting.rows,
                bytes=running.bytes + waiting.bytes,
            )
        numbers = {waiting.number for waiting in newcomers}
        self._waiting = [waiting for waiting in self._waiting if waiting.number not in numbers]
        return newcomers

    def _joins(self, waiting: Waiting[T], running: Running) -> bool:
        if not running.rows:
            return True
        if running.rows + waiting.rows > self.max_rows:
            return False
        if self.max_bytes is not None and running.bytes + waiting.bytes > self.max_bytes:
            return False
        keys = running.keys | {waiting.key}
        return len(keys) == 1 or (len(keys) <= self.max_keys and not running.alone and not waiting.alone)

    def _rank_waiting(self, ready: Collection[Hashable], now: float) -> list[Waiting[T]]:
        def rank(waiting: Waiting[T]) -> tuple[int, float, int]:
            if waiting.due <= now:
                return (-1, waiting.due, waiting.number)
            return (LANES.index(waiting.lane), float(waiting.key not in ready), waiting.number)

        return sorted(self._waiting, key=rank)
