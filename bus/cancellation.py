"""Which turns were cancelled, and the cancel scopes of the work that must end with them."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import anyio

MAX_REMEMBERED = 4096
"""Cancelled turns that are remembered, because some of their messages arrive after the cancellation."""


class Cancellations:
    """One process's cancelled turns, the latest :data:`MAX_REMEMBERED`, and what to stop for each turn that runs."""

    def __init__(self) -> None:
        self._cancelled: OrderedDict[str, None] = OrderedDict()
        self._stops: dict[str, list[Callable[[], None]]] = {}

    def cancel(self, turn_id: str) -> None:
        """Remember the turn and stop everything that runs for it."""
        self._cancelled[turn_id] = None
        while len(self._cancelled) > MAX_REMEMBERED:
            self._cancelled.popitem(last=False)
        for stop in list(self._stops.get(turn_id, ())):
            stop()

    def __contains__(self, turn_id: str) -> bool:
        return turn_id in self._cancelled

    @contextmanager
    def scope(self, turn_id: str, *, deadline: float = float("inf")) -> Iterator[anyio.CancelScope]:
        """A cancel scope that is cancelled when the turn is. ``deadline`` is in :func:`anyio.current_time` seconds."""
        with anyio.CancelScope(deadline=deadline) as scope:
            stops = self._stops.setdefault(turn_id, [])
            stops.append(scope.cancel)
            try:
                yield scope
            finally:
                stops.remove(scope.cancel)
                if not stops:
                    self._stops.pop(turn_id, None)
