"""Recalls go first: a client waits for them, and nobody for the record of an answer."""

from collections.abc import Iterator
from contextlib import contextmanager

import anyio

PATIENCE = 0.05
"""Seconds that a record waits for recalls at most: under load there is always one."""


class Precedence:
    """Who is first is in hand for milliseconds; who comes after begins when nobody is, or when its patience ends."""

    def __init__(self) -> None:
        self._first = 0
        self._none = anyio.Event()

    @contextmanager
    def first(self) -> Iterator[None]:
        """Around what goes first."""
        self._first += 1
        try:
            yield
        finally:
            self._first -= 1
            if not self._first:
                self._none.set()
                self._none = anyio.Event()

    async def after(self) -> None:
        """Before what goes after."""
        with anyio.move_on_after(PATIENCE):
            while self._first:
                await self._none.wait()
