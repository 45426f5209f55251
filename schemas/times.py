"""Unix times on the wire: finite, not before 1970, and within the years that a calendar has."""

from typing import Annotated

from msgspec import Meta

LAST_TIME = 253_402_300_799.0
"""Unix seconds of the last second of the year 9999. A later number is another unit: milliseconds, not seconds."""

UnixTime = Annotated[float, Meta(ge=0.0, le=LAST_TIME)]
"""Seconds since 1970 (UTC)."""
