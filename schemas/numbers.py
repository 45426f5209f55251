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
