"""The base class of every struct on the wire."""

from msgspec import Struct


class WireStruct(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Frozen and closed: decoding a field that the contract does not know fails with an error that names the field."""
