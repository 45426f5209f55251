"""Carries out an administrator's verbs and loads published adapters; makes the ``adapter.*`` events that tell so."""

from agents.inference.adapter_watch import require_passed
from agents.inference.engine import Engine
from bus.connection import Bus
from schemas.adapters import (
    AdapterActivated,
    AdapterInfo,
    AdapterLoaded,
    AdapterPublished,
    AdapterRejected,
    AdapterRequest,
    AdapterUnloaded,
    new_life,
)
from schemas.envelope import Envelope
from schemas.errors import KikiError, StageFailed
from schemas.events import Event

ADMINISTRATOR = "administrator"
"""The tenant in the events of an administrator's verbs."""


async def administer_adapter(bus: Bus, engine: Engine, verb: str, request: AdapterRequest) -> AdapterInfo:
    """Carry out a verb and publish its event; ``check`` changes nothing, so only its refusal is published.

    Raises:
        KikiError: the engine's refusal, published as ``adapter.rejected`` if the adapter is at fault.
    """
    envelope = new_life(request.name, tenant=ADMINISTRATOR)
    try:
        info = await engine.administer(verb, request.name, request.sha256)
    except StageFailed as error:
        if verb != "unload" and error.code != "adapter_not_judged":  # these say nothing against the adapter
            await bus.publish(_rejected_event(envelope, request.name, request.sha256, error))
        raise
    event = _verb_event(envelope, verb, info)
    if event is not None:
        await bus.publish(event)
    return info


async def adopt_adapter(bus: Bus, engine: Engine, event: AdapterPublished) -> Event:
    """Load a published adapter and prove that it changes the model. The gates must have passed these very weights.

    Returns:
        ``adapter.activated``, or ``adapter.rejected`` with the reason.

    Raises:
        KikiError: the engine is away; try again.
    """
    envelope = event.envelope.next("inference")
    try:
        if engine.verdicts is not None:  # whoever runs an upstream server answers for its adapters
            await require_passed(bus, engine.verdicts, event.name, event.sha256)
        info = await engine.administer("activate", event.name, event.sha256)
    except StageFailed as error:
        return _rejected_event(envelope, event.name, event.sha256, error)
    return _loaded_event(AdapterActivated, envelope, info)


def _verb_event(envelope: Envelope, verb: str, info: AdapterInfo) -> Event | None:
    if verb == "activate":
        return _loaded_event(AdapterActivated, envelope, info)
    if verb == "load":
        return _loaded_event(AdapterLoaded, envelope, info)
    if verb == "unload":
        return AdapterUnloaded(envelope=envelope, name=info.name, sha256=info.sha256)
    return None


def _loaded_event(kind: type[AdapterLoaded | AdapterActivated], envelope: Envelope, info: AdapterInfo) -> Event:
    return kind(
        envelope=envelope,
        name=info.name,
        sha256=info.sha256,
        bytes=info.bytes,
        modules=info.modules,
        seconds=info.seconds,
    )


def _rejected_event(envelope: Envelope, name: str, sha256: str, error: KikiError) -> AdapterRejected:
    return AdapterRejected(
        envelope=envelope, name=name, sha256=sha256, stage="worker", code=error.code, message=error.message
    )
