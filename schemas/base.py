"""The base class of every struct on the wire."""

import math
from typing import Annotated

from msgspec import DecodeError, Meta, Struct

from schemas.errors import InvalidInput

END = r"$(?!\n)"
"""The end of a text in every dialect of regular expressions; ``$`` alone passes over a last line end in Python."""

SUBJECT_PATTERN = rf"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*{END}"
"""A subject without wildcards that is none of the broker's own."""

LARGEST_INTEGER = 2**63 - 1
"""The largest integer on the wire: what a signed integer of 64 bits holds, in every language."""

UNREADABLE: tuple[type[Exception], ...] = (DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding bytes raises that somebody else wrote: no JSON, another type, no UTF-8, too many brackets."""

Integer = Annotated[int, Meta(ge=-LARGEST_INTEGER, le=LARGEST_INTEGER)]


class WireStruct(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Frozen and closed: decoding a field that the contract does not know fails with an error that names the field."""


def refuse_non_finite(**numbers: float | None) -> None:
    """Refuse NaN and infinities, which JSON lacks: they would be written as null, and null is no bound at all.

    Raises:
        InvalidInput: one of the numbers is not finite; ``param`` names it.
    """
    for name, number in numbers.items():
        if number is not None and not math.isfinite(number):
            raise InvalidInput(f"'{name}' is {number}; expected a finite number.", param=name)
