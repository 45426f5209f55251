"""Who decodes next. Pure: plain structs in, plain structs out, no clock and no model.

Work for the same adapters decodes in one batch; other adapters have to wait until the batch has drained. So the
loaded adapters are kept while that is fair: each piece of work is due ``patience`` seconds after it arrived, and
once it is overdue nothing that is due later goes before it. Between pieces that are not overdue the lane decides,
then the loaded adapters, then the order of arrival.
"""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from schemas.jobs import LANES, Lane

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Waiting(Generic[T]):
    """A piece of work: ``rows`` of the batch for adapters ``key``; ``due`` in the clock's seconds."""

    item: T
    key: Hashable
    lane: Lane
    rows: int
    due: float
    number: int


class Scheduler(Generic[T]):
    """The queue in front of the batch. ``patience`` is in seconds, in the order of the lanes."""

    def __init__(self, *, max_rows: int, patience: Sequence[float]) -> None:
        self.max_rows = max_rows
        self._patience = dict(zip(LANES, patience, strict=True))
        self._waiting: list[Waiting[T]] = []
        self._count = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def depth(self, lane: Lane) -> int:
        """Pieces of one lane that wait."""
        return sum(waiting.lane == lane for waiting in self._waiting)

    def items(self) -> list[T]:
        """All work that waits."""
        return [waiting.item for waiting in self._waiting]

    def add(self, item: T, *, key: Hashable, lane: Lane, rows: int, now: float) -> None:
        """Queue a piece of work.

        Raises:
            ValueError: it has more rows than the batch can ever hold.
        """
        if not 1 <= rows <= self.max_rows:
            raise ValueError(f"{rows} rows; the batch holds 1 to {self.max_rows}.")
        self._count += 1
        due = now + self._patience[lane]
        self._waiting.append(Waiting(item=item, key=key, lane=lane, rows=rows, due=due, number=self._count))

    def discard(self, items: Iterable[T]) -> None:
        """Forget work that is not wanted any more."""
        gone = list(items)
        self._waiting = [waiting for waiting in self._waiting if waiting.item not in gone]

    def admit(self, *, loaded: Hashable, rows_in_use: int, now: float) -> list[Waiting[T]]:
        """Take out what joins the batch now, in order.

        With rows in use only work for the ``loaded`` key can join; with an empty batch the first in order decides
        the key. The first that cannot join ends the admission, so that nothing overtakes it for ever.
        """
        admitted: list[Waiting[T]] = []
        free = self.max_rows - rows_in_use
        key = loaded
        for waiting in self._ordered(loaded, now):
            if not admitted and not rows_in_use:
                key = waiting.key
            if waiting.key != key or waiting.rows > free:
                break
            admitted.append(waiting)
            free -= waiting.rows
        taken = {waiting.number for waiting in admitted}
        self._waiting = [waiting for waiting in self._waiting if waiting.number not in taken]
        return admitted

    def _ordered(self, loaded: Hashable, now: float) -> list[Waiting[T]]:
        def rank(waiting: Waiting[T]) -> tuple[int, float, int]:
            if waiting.due <= now:
                return (-1, waiting.due, waiting.number)
            return (LANES.index(waiting.lane), float(waiting.key != loaded), waiting.number)

        return sorted(self._waiting, key=rank)
