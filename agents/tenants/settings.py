"""Settings of the gate for tenants."""

from typing import Annotated

from msgspec import Meta, Struct


class TenantsSettings(Struct, frozen=True, kw_only=True):
    """The gate for tenants.

    Attributes:
        requests_at_once: requests of one tenant that are worked on at the same time; further ones are refused.
        scan: messages of the record that one request for records looks through at most.
    """

    requests_at_once: Annotated[int, Meta(ge=1)] = 16
    scan: Annotated[int, Meta(ge=1)] = 2000
