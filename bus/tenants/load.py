"""What tenants have under way: turns, and the bytes of these."""

from collections.abc import Iterator
from contextlib import contextmanager

from bus.tenants.shares import TenantShares


class TenantLoad:
    """One tenant alone may have ``turns`` under way, of ``size`` bytes; beside others it may have less of each."""

    def __init__(self, *, turns: int, size: int) -> None:
        self._turns, self._bytes = TenantShares(turns), TenantShares(size)

    @property
    def total(self) -> int:
        """Turns under way, of all tenants."""
        return self._turns.total

    def find_excess(self, tenant: str, size: int) -> str | None:
        """What the tenant has its share of, so that there is no room for a turn of ``size`` bytes; None: there is."""
        if not self._turns.has_room(tenant):
            return f"{self._turns.amount_of(tenant)} turns"
        if not self._bytes.has_room(tenant, size):
            return f"turns of {self._bytes.amount_of(tenant)} bytes"
        return None

    @contextmanager
    def hold(self, tenant: str, size: int) -> Iterator[None]:
        """A turn of ``size`` bytes is under way as long as the context lasts."""
        self._turns.take(tenant)
        self._bytes.take(tenant, size)
        try:
            yield
        finally:
            self._turns.give_back(tenant)
            self._bytes.give_back(tenant, size)
