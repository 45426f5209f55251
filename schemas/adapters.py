"""The life of an adapter: proposed, judged, published, then active in a worker or rejected with why.

    adapter.proposed -> gates -> adapter.published -> hot load -> adapter.activated
                          |                               |
                          +------> adapter.rejected <-----+         adapter.unloaded ends it

The last subject token and ``envelope.turn_id`` name one such life, ``envelope.session_id`` is the adapter's name.
Weights never travel: they lie in the workers' adapters folder under the adapter's name, and are known by their digest.
"""

from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from schemas.base import WireStruct
from schemas.envelope import Envelope, new_turn
from schemas.events import Event

NAME_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$"
AdapterName = Annotated[str, Meta(pattern=NAME_PATTERN)]
"""A registered name: one folder of the adapters folder; never a path."""

Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$")]
"""Digest of the adapter's weights file."""

MaybeSha256 = Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?$")]
"""The same, or nothing where it is not known: an upstream server tells none."""


class Gate(WireStruct, frozen=True, kw_only=True):
    """One judgement of a proposed adapter: ``value`` against ``bound`` where there are numbers, ``detail`` in words."""

    name: str
    passed: bool
    value: float | None = None
    bound: float | None = None
    detail: str = ""


class AdapterProposed(Event, frozen=True, kw_only=True):
    """Somebody trained an adapter and asks for its judgement. Read by whoever runs the gates."""

    subject: ClassVar[str] = "adapter.proposed"
    name: AdapterName
    sha256: Sha256
    origin: str = ""
    base_model: str = ""


class AdapterPublished(Event, frozen=True, kw_only=True):
    """The gates let it through. Read by the worker, which loads it and proves that it changes the logits."""

    subject: ClassVar[str] = "adapter.published"
    name: AdapterName
    sha256: Sha256
    origin: str = ""
    gates: tuple[Gate, ...] = ()


class AdapterLoaded(Event, frozen=True, kw_only=True):
    """A worker holds it in memory at an administrator's wish; its first request proves it and gives it a seat."""

    subject: ClassVar[str] = "adapter.loaded"
    name: AdapterName
    sha256: MaybeSha256
    bytes: int = 0
    modules: int = 0
    seconds: float = 0.0


class AdapterActivated(Event, frozen=True, kw_only=True):
    """A worker serves it from now on: verified, resident and seated. ``seconds`` is what that took."""

    subject: ClassVar[str] = "adapter.activated"
    name: AdapterName
    sha256: MaybeSha256
    bytes: int = 0
    modules: int = 0
    seconds: float = 0.0


class AdapterRejected(Event, frozen=True, kw_only=True):
    """It is not served, and why: by a gate, or by the worker that could not load it."""

    subject: ClassVar[str] = "adapter.rejected"
    name: AdapterName
    stage: Literal["gates", "worker"]
    code: str
    message: str
    sha256: MaybeSha256 = ""
    gates: tuple[Gate, ...] = ()


class AdapterUnloaded(Event, frozen=True, kw_only=True):
    """A worker has forgotten it at an administrator's wish; a request that names it would load it again."""

    subject: ClassVar[str] = "adapter.unloaded"
    name: AdapterName
    sha256: MaybeSha256 = ""


ADAPTER_EVENTS: tuple[type[Event], ...] = (
    AdapterProposed,
    AdapterPublished,
    AdapterLoaded,
    AdapterActivated,
    AdapterRejected,
    AdapterUnloaded,
)
"""The events of the ADAPTERS stream, in the order of a life."""


def new_life(name: str, *, tenant: str, timeout: float = 3600.0, key: str | None = None) -> Envelope:
    """The envelope of an adapter's first event; with ``key`` (its digest, say) a retry is the same life."""
    return new_turn(tenant=tenant, session_id=name, timeout=timeout, key=f"adapter {name} {key}" if key else None)


class AdapterRequest(WireStruct, frozen=True, kw_only=True):
    """A registered adapter, by its name; never a path. ``sha256``: the digest that it must have, if it is given."""

    name: AdapterName
    sha256: MaybeSha256 = ""


class AdapterListRequest(WireStruct, frozen=True, kw_only=True):
    """Which adapters does the worker know."""


class AdapterInfo(WireStruct, frozen=True, kw_only=True):
    """An adapter as the worker has it: ``resident`` in memory, ``seated`` beside others, ``active`` in the model.

    ``sha256``, ``bytes``, ``modules`` and ``norm`` (Frobenius, of the whole change) are known once it was read;
    ``seconds`` is what the verb took.
    """

    name: str
    resident: bool = False
    seated: bool = False
    active: bool = False
    sha256: str = ""
    bytes: int = 0
    modules: int = 0
    seconds: float = 0.0
    norm: float | None = None


class AdapterListReply(WireStruct, frozen=True, kw_only=True):
    """All registered adapters by name, and the budget of the resident ones in bytes."""

    adapters: tuple[AdapterInfo, ...]
    budget: int = 0
