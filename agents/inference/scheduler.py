"""Decides which work decodes next. Pure: plain structs in, plain structs out, no clock and no model.

Work for up to ``max_keys`` sets of adapters decodes in one batch; a further set, one that cannot be mixed, and one that
does not fit in memory beside the others have to wait until rows have left. So the running sets are kept as long as that
is fair: each piece of work is due ``patience`` seconds after it arrived, and overdue work goes first, in the order in
which it was due. Work that is not overdue is ordered by lane, then by whether its set is ready, then by arrival.

Tenants share the rows (:mod:`bus.tenants.shares`): one alone may fill the batch, and there is room beyond for others.
Of overdue work, and within a lane, that of the tenant with the fewest rows goes first.
"""

from collections import Counter
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from bus.tenants.shares import count_room, find_most
from schemas.jobs import LANES, Lane

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Waiting(Generic[T]):
    """A tenant's piece of work: ``rows`` of the batch for adapters ``key``; ``due`` in seconds of a monotonic clock.

    ``alone``: its adapters cannot share a batch with others. ``bytes``: of cache that it may need at most.
    """

    item: T
    key: Hashable
    lane: Lane
    rows: int
    due: float
    number: int
    tenant: str = ""
    alone: bool = False
    bytes: int = 0


@dataclass(frozen=True, kw_only=True)
class Running:
    """The batch now: its ``keys``, the ``rows`` of each tenant, and the bytes of cache promised to these rows.

    ``alone``: its one key cannot share the batch. ``ready`` are keys whose adapters are in the model already.
    """

    keys: frozenset[Hashable] = frozenset()
    ready: frozenset[Hashable] = frozenset()
    alone: bool = False
    rows: Mapping[str, int] = field(default_factory=dict)
    bytes: int = 0


class Scheduler(Generic[T]):
    """The queue in front of the batch. ``patience`` is in seconds, in the order of the lanes.

    ``max_rows``: of one tenant alone; ``most_rows``: of all together, None for a third more. ``max_keys``: sets of
    adapters in one batch; ``max_bytes``: of the caches of all rows; None for no limit. ``fits`` says whether the
    adapters of these sets fit in memory together.
    """

    def __init__(
        self,
        *,
        max_rows: int,
        patience: Sequence[float],
        most_rows: int | None = None,
        max_keys: int = 1,
        max_bytes: int | None = None,
        fits: Callable[[frozenset[Any]], bool] = lambda _: True,
    ) -> None:
        self.max_rows, self.max_keys, self.max_bytes, self._fits = max_rows, max_keys, max_bytes, fits
        self.most_rows = find_most(max_rows) if most_rows is None else most_rows
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
        self,
        item: T,
        *,
        key: Hashable,
        lane: Lane,
        rows: int,
        now: float,
        tenant: str = "",
        alone: bool = False,
        bytes: int = 0,
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
            Waiting(
                item=item,
                key=key,
                lane=lane,
                rows=rows,
                due=due,
                number=self._count,
                tenant=tenant,
                alone=alone,
                bytes=bytes,
            )
        )

    def discard(self, items: Iterable[T]) -> None:
        """Remove work that nobody waits for any more."""
        unwanted = list(items)
        self._waiting = [waiting for waiting in self._waiting if waiting.item not in unwanted]

    def admit(self, *, running: Running, now: float) -> list[Waiting[T]]:
        """Take out the work that joins the batch now, in order.

        Admission ends at the first piece that cannot join, so that it is not overtaken for ever. With an empty batch
        the first piece always joins, even if it needs more than ``max_bytes``. A tenant that has its share waits for
        rows of its own to leave, and others may go before.
        """
        newcomers: list[Waiting[T]] = []
        rows, full, ready = Counter(running.rows), set[str](), running.keys | running.ready
        while candidates := [waiting for waiting in self._waiting if waiting.tenant not in full]:
            waiting = min(candidates, key=lambda waiting: _rank(waiting, ready, rows[waiting.tenant], now))
            if not self._joins(waiting, running):
                if self._exceeds_share(waiting, running) and rows[waiting.tenant]:
                    full.add(waiting.tenant)
                    continue
                break
            newcomers.append(waiting)
            self._waiting.remove(waiting)
            rows[waiting.tenant] += waiting.rows
            running = Running(
                keys=running.keys | {waiting.key},
                alone=running.alone or waiting.alone,
                rows=rows,
                bytes=running.bytes + waiting.bytes,
            )
        return newcomers

    def _joins(self, waiting: Waiting[T], running: Running) -> bool:
        total = sum(running.rows.values())
        if not total:
            return True
        if total + waiting.rows > self.most_rows or self._exceeds_share(waiting, running):
            return False
        if self.max_bytes is not None and running.bytes + waiting.bytes > self.max_bytes:
            return False
        keys = running.keys | {waiting.key}
        if len(keys) == 1:
            return True
        if len(keys) > self.max_keys or running.alone or waiting.alone:
            return False
        return waiting.key in running.keys or self._fits(keys)

    def _exceeds_share(self, waiting: Waiting[T], running: Running) -> bool:
        own, total = running.rows.get(waiting.tenant, 0), sum(running.rows.values())
        return waiting.rows > count_room(self.max_rows, own=own, total=total)


def _rank(waiting: Waiting[Any], ready: Collection[Hashable], rows: int, now: float) -> tuple[int, int, float, int]:
    """Low goes first; ``rows`` are those that the work's tenant has."""
    if waiting.due <= now:
        return (-1, rows, waiting.due, waiting.number)
    return (LANES.index(waiting.lane), rows, float(waiting.key not in ready), waiting.number)
