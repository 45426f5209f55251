"""Unix times on the wire: finite, not before 1970, and within the years that a calendar has."""

import math
from typing import Annotated

from msgspec import Meta

from schemas.errors import InvalidInput

LAST_TIME = 253_402_300_799.0
"""Unix seconds of the last second of the year 9999. A later number is another unit: milliseconds, not seconds."""

UnixTime = Annotated[float, Meta(ge=0.0, le=LAST_TIME)]
"""Seconds since 1970 (UTC)."""


def refuse_non_finite(**times: float | None) -> None:
    """Refuse NaN and infinities, which JSON lacks: they would be written as null, and null is no bound at all.

    Raises:
        InvalidInput: one of the times is not finite; ``param`` names it.
    """
    for name, at in times.items():
        if at is not None and not math.isfinite(at):
            raise InvalidInput(f"'{name}' is {at}; expected Unix seconds.", param=name)
