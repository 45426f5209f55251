"""Settings of the services agent."""

from msgspec import Struct


class ServicesSettings(Struct, frozen=True, kw_only=True):
    """How registered services get the record.

    Attributes:
        watch_interval: seconds between two readings of every service's lag; its consumer follows its marks as often.
        poll: seconds between two looks into the record while a fetch waits for a first one.
        reply_bytes: the most bytes of a fetch's reply; its first record is included whatever its size.
    """

    watch_interval: float = 5.0
    poll: float = 0.25
    reply_bytes: int = 4 * 1024**2
