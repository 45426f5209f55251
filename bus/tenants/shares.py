"""How tenants share what is limited: turns, bytes, rows of a batch.

One tenant alone may have all of a limit. Each of several may have the limit less three quarters of what the others
have: there is always room for one who has little, and a third more than the limit is in use at most. Two tenants that
take what they get end at 4/7 of it each, four at 4/13. Pure.
"""

from collections import Counter

OTHERS = 0.75
"""How much of what the other tenants have is taken off a tenant's limit."""


def count_room(limit: float, *, own: float, total: float) -> float:
    """How much more a tenant may have that has ``own`` of the ``total`` in use; below 0 if it has too much."""
    return limit - OTHERS * (total - own) - own


def find_most(limit: int) -> int:
    """How much all tenants together can have."""
    return int(limit / OTHERS)


class TenantShares:
    """What each tenant has of something of which one alone may have ``limit``."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.total = 0
        self._held: Counter[str] = Counter()

    def amount_of(self, tenant: str) -> int:
        """What the tenant has."""
        return self._held[tenant]

    def has_room(self, tenant: str, amount: int = 1) -> bool:
        """Whether the tenant may have so much more. One that has nothing always may."""
        own = self._held[tenant]
        return not own or amount <= count_room(self.limit, own=own, total=self.total)

    def take(self, tenant: str, amount: int = 1) -> None:
        """The tenant has so much more, be there room or not."""
        self._held[tenant] += amount
        self.total += amount

    def give_back(self, tenant: str, amount: int = 1) -> None:
        """The tenant has so much less."""
        self.total -= amount
        self._held[tenant] -= amount
        if not self._held[tenant]:
            del self._held[tenant]
