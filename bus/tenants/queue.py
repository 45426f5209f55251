"""What a consumer has in hand, by tenant: how much a tenant may have there, and whose message is handled next."""

from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, asynccontextmanager

import anyio

from bus.tenants.load import TenantLoad
from bus.tenants.shares import TenantShares
from schemas.errors import Refused


class TenantQueue:
    """One tenant alone has ``places`` messages handled at once; in hand ``messages``, of ``size`` bytes.

    Beside others it has less of each (:mod:`bus.tenants.shares`). What is in hand and not handled waits: next is the
    tenant with the fewest places, and its message that came first.
    """

    def __init__(self, *, places: int, messages: int, size: int) -> None:
        self._places, self._load = TenantShares(places), TenantLoad(turns=messages, size=size)
        self._waiting: dict[str, deque[anyio.Event]] = {}

    def require_room(self, tenant: str, size: int) -> None:
        """Check that the tenant may have one more message in hand, of ``size`` bytes.

        Raises:
            Refused: it has its share.
        """
        if (excess := self._load.find_excess(tenant, size)) is not None:
            raise Refused(f"{excess} of the tenant '{tenant}' wait, which is the limit: ask again in a moment.")

    def hold(self, tenant: str, size: int) -> AbstractContextManager[None]:
        """A message of ``size`` bytes is in hand as long as the context lasts."""
        return self._load.hold(tenant, size)

    @asynccontextmanager
    async def take_place(self, tenant: str, *, on_wait: Callable[[], None] = lambda: None) -> AsyncIterator[None]:
        """Wait until it is the tenant's turn, and have a place as long as the context lasts; ``on_wait`` is called
        first where it has to wait."""
        if tenant in self._waiting or not self._places.has_room(tenant):
            on_wait()
            await self._wait(tenant)
        else:
            self._places.take(tenant)
        try:
            yield
        finally:
            self._leave(tenant)

    async def _wait(self, tenant: str) -> None:
        admitted = anyio.Event()
        self._waiting.setdefault(tenant, deque()).append(admitted)
        try:
            await admitted.wait()
        except BaseException:
            if admitted.is_set():
                self._leave(tenant)
            else:
                self._forget(tenant, admitted)
            raise

    def _leave(self, tenant: str) -> None:
        self._places.give_back(tenant)
        while waiting := [name for name in self._waiting if self._places.has_room(name)]:
            following = min(waiting, key=self._places.amount_of)
            admitted = self._waiting[following][0]
            self._forget(following, admitted)
            self._places.take(following)
            admitted.set()

    def _forget(self, tenant: str, admitted: anyio.Event) -> None:
        self._waiting[tenant].remove(admitted)
        if not self._waiting[tenant]:
            del self._waiting[tenant]
