"""The base class of every struct on the wire."""

import math

from msgspec import Struct

from schemas.errors import InvalidInput


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
