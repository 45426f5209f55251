"""The delta ring: the latest latent snapshots, in a stream of the broker that drops its oldest messages."""

from collections.abc import Mapping

from bus import metrics
from bus.connection import Bus
from bus.errors import translate_errors
from bus.stream import measure_stream, read_message
from bus.topology import LATENTS
from schemas.codec import decode
from schemas.dream import Snapshot
from schemas.errors import InvalidEvent

_PROBLEM = "the latent ring cannot be read"


async def count_snapshots(bus: Bus) -> int:
    """How many snapshots there are.

    Raises:
        Unavailable: the broker is away.
    """
    with translate_errors(_PROBLEM):
        return (await measure_stream(bus, LATENTS)).messages


async def read_latest(bus: Bus, count: int) -> list[Mapping[str, tuple[float, ...]]]:
    """The ``count`` latest snapshots, the latest first.

    Raises:
        Unavailable: the broker is away.
    """
    snapshots: list[Mapping[str, tuple[float, ...]]] = []
    with translate_errors(_PROBLEM):
        size = await measure_stream(bus, LATENTS)
        for sequence in range(size.last_seq, max(size.first_seq, size.last_seq - count + 1) - 1, -1):
            message = await read_message(bus, LATENTS, sequence)
            if message is None:  # the stream has dropped it since it was measured
                continue
            try:
                snapshots.append(decode(Snapshot, message.data).species)
            except InvalidEvent as error:
                metrics.count_degraded("dream.unreadable", f"snapshot {sequence} is passed over: {error.message}")
    return snapshots
