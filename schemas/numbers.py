"""Ranges of numbers on the wire: a number that is out of them is a mistake, and would overflow where it is used."""

from typing import Annotated

from msgspec import Meta

LARGEST = 1e30
"""The largest number that a request may hold: sums and squares of such numbers are finite, too."""

LARGEST_COMPONENT = 1e15
"""The largest component of a vector: the square of a vector's length is finite in 32 bits, too."""

Number = Annotated[float, Meta(ge=-LARGEST, le=LARGEST)]
Amount = Annotated[float, Meta(ge=0.0, le=LARGEST)]
Component = Annotated[float, Meta(ge=-LARGEST_COMPONENT, le=LARGEST_COMPONENT)]

LAST_TIME = 253_402_300_799.0
"""Unix seconds of the last second of the year 9999. A later number is another unit: milliseconds, not seconds."""

UnixTime = Annotated[float, Meta(ge=0.0, le=LAST_TIME)]
"""Seconds since 1970 (UTC): finite, not before 1970, and within the years that a calendar has."""
