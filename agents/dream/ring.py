"""The delta ring: the broker keeps the latest snapshots in a stream that drops its oldest."""

from collections.abc import Mapping
from typing import Any

import nats.errors
from nats.js.errors import APIError, NotFoundError

from bus.connection import Bus
from bus.topology import LATENTS
from schemas.codec import decode
from schemas.dream import Snapshot
from schemas.errors import Unavailable


async def count_snapshots(bus: Bus) -> int:
    """How many snapshots there are."""
    return int((await _state(bus)).messages)


async def read_latest(bus: Bus, count: int) -> list[Mapping[str, tuple[float, ...]]]:
    """The ``count`` latest snapshots, the latest first.

    Raises:
        Unavailable: the broker is away.
    """
    state = await _state(bus)
    snapshots: list[Mapping[str, tuple[float, ...]]] = []
    for sequence in range(state.last_seq, max(state.first_seq, state.last_seq - count + 1) - 1, -1):
        try:
            message = await bus.js.get_msg(LATENTS, seq=sequence)
        except NotFoundError:
            continue  # dropped since
        except (TimeoutError, nats.errors.Error, APIError) as error:
            raise Unavailable(f"the latent ring cannot be read: {error or type(error).__name__}.") from error
        snapshots.append(decode(Snapshot, message.data or b"").species)
    return snapshots


async def _state(bus: Bus) -> Any:
    try:
        return (await bus.js.stream_info(LATENTS)).state
    except (TimeoutError, nats.errors.Error, APIError) as error:
        raise Unavailable(f"the latent ring cannot be read: {error or type(error).__name__}.") from error
