"""Proposes a trained adapter to a running runtime, and waits a while for what becomes of it."""

from collections.abc import Awaitable, Callable

import anyio

from bus.connection import Bus, LiveMessage
from bus.topology import ADAPTERS
from schemas.adapters import (
    AdapterActivated,
    AdapterListRequest,
    AdapterProposed,
    AdapterPublished,
    AdapterRejected,
    new_life,
)
from schemas.calls import ADAPTERS_LS
from schemas.codec import decode
from schemas.errors import Unavailable

ORIGIN = "train"
"""The tenant and origin of the lives of trained adapters."""

LIST_SECONDS = 10.0
"""Seconds that the worker has to list its adapters."""

Fate = AdapterPublished | AdapterActivated | AdapterRejected
FATES: tuple[type[Fate], ...] = (AdapterRejected, AdapterActivated, AdapterPublished)
"""What may become of a proposed adapter; the first two end the waiting."""


async def propose(bus: Bus, name: str, *, sha256: str, base_model: str, wait: float) -> Fate | None:
    """Publish ``adapter.proposed`` and wait up to ``wait`` seconds for the worker to serve it, or for a refusal.

    Returns:
        The last that was said of it; None when nobody said anything in time. A digest that was judged before has its
        judgement at once.

    Raises:
        Unavailable: the broker is away.
    """
    envelope = new_life(name, tenant=ORIGIN, key=sha256)
    fates: dict[type[Fate], Fate] = {}
    ended = anyio.Event()

    def note(fate: Fate) -> None:
        fates[type(fate)] = fate
        if not isinstance(fate, AdapterPublished):
            ended.set()

    stops = [
        await bus.listen(bus.subjects.stage(kind.subject, envelope.turn_id), _reader(kind, note)) for kind in FATES
    ]
    try:
        for kind in FATES:
            if (earlier := await bus.last(kind, envelope.turn_id, stream=ADAPTERS)) is not None:
                note(earlier)
        if not fates:
            event = AdapterProposed(envelope=envelope, name=name, sha256=sha256, origin=ORIGIN, base_model=base_model)
            await bus.publish(event)
        with anyio.move_on_after(wait):
            await ended.wait()
    finally:
        for stop in stops:
            await stop()
    return next((fates[kind] for kind in FATES if kind in fates), None)


async def is_listed(bus: Bus, name: str) -> bool | None:
    """Whether the running worker's folder has an adapter of that name; None when no worker answers."""
    try:
        reply = await bus.request(ADAPTERS_LS, AdapterListRequest(), timeout=LIST_SECONDS)
    except Unavailable:
        return None
    return any(info.name == name for info in reply.adapters)


def describe_fate(fate: Fate | None, wait: float) -> str:
    """What became of the adapter, as one line."""
    if fate is None:
        return f"proposed, and not judged within {wait:.0f} s: 'kiki adapters ls' shows when it is"
    if isinstance(fate, AdapterRejected):
        return f"rejected by the {fate.stage}: {fate.message}"
    if isinstance(fate, AdapterActivated):
        return f"served: the worker has activated {fate.sha256[:12]}"
    return "published by the gates; the worker has not loaded it yet"


def _reader(kind: type[Fate], note: Callable[[Fate], None]) -> Callable[[LiveMessage], Awaitable[None]]:
    async def read(message: LiveMessage) -> None:
        note(decode(kind, message.data))

    return read
