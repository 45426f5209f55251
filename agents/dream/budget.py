"""Measures what a dream episode costs, and raises when it goes over its budget."""

import time
from dataclasses import dataclass, field

from schemas.dream import Budget
from schemas.errors import StageFailed


@dataclass(kw_only=True)
class Meter:
    """The costs of an episode since this was created. Energy is estimated: the time multiplied by ``watts``."""

    budget: Budget
    watts: float
    flops: float = 0.0
    _started_at: float = field(default_factory=time.monotonic)

    @property
    def spent(self) -> Budget:
        """Operations, seconds and joules up to now."""
        seconds = time.monotonic() - self._started_at
        return Budget(flops=self.flops, wall_time_s=seconds, energy_j=seconds * self.watts)

    @property
    def seconds_left(self) -> float:
        """Seconds until the time or the energy is used up, at least 0."""
        limit = min(self.budget.wall_time_s, self.budget.energy_j / self.watts)
        return max(0.0, limit - (time.monotonic() - self._started_at))

    @property
    def flops_left(self) -> float:
        """Operations that may still be spent, at least 0."""
        return max(0.0, self.budget.flops - self.flops)

    def charge(self, flops: float) -> None:
        """Count operations that were done.

        Raises:
            StageFailed: code ``budget_exceeded``; ``param`` names what is used up.
        """
        self.flops += flops
        spent = self.spent
        for name in ("flops", "wall_time_s", "energy_j"):
            cost, limit = getattr(spent, name), getattr(self.budget, name)
            if cost > limit:
                raise budget_error(name, f"{cost:.4g} of {limit:.4g}")


def budget_error(name: str, how: str) -> StageFailed:
    """The error of an episode that is over its budget."""
    return StageFailed(
        f"the dream episode went over its budget: {name} {how}; its result is discarded.",
        code="budget_exceeded",
        param=f"episode.budget.{name}",
    )
