"""The one base of everything on the wire."""

from msgspec import Struct


class WireStruct(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Closed and frozen: a field that the contract does not know is an error that names it."""
