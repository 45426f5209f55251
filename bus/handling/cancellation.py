"""Which turns were cancelled, and what stops the work that must end with them. Needs nothing but Python."""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MAX_REMEMBERED = 4096
"""Cancelled turns that are remembered, because some of their messages arrive after the cancellation."""


class Cancellations:
    """One process's cancelled turns, the latest :data:`MAX_REMEMBERED`, and what to stop for each turn that runs."""

    def __init__(self) -> None:
        self._cancelled: OrderedDict[str, None] = OrderedDict()
        self._stops: dict[str, list[Callable[[], object]]] = {}

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
    def watch(self, turn_id: str, stop: Callable[[], object]) -> Iterator[None]:
        """Have ``stop`` called when the turn is cancelled while the context lasts."""
        stops = self._stops.setdefault(turn_id, [])
        stops.append(stop)
        try:
            yield
        finally:
            stops.remove(stop)
            if not stops:
                self._stops.pop(turn_id, None)
