"""The life of an adapter: proposed, judged, published, then active in a worker, or rejected with a reason.

    adapter.proposed -> gates -> adapter.judged -> adapter.published -> hot load -> adapter.activated
                                       |                                   |
                                       +---------> adapter.rejected <------+       adapter.unloaded ends it

The last token of the subject and ``envelope.turn_id`` are the id of one such life; ``envelope.session_id`` is the
adapter's name. The life of ``adapter.judged`` is a function of the digest (:func:`judgement_of`), so that the verdict
on any weights can be looked up. These events carry no weights: the weights lie in the workers' adapters folder under
the adapter's name, and their sha256 identifies them.
"""

from typing import Annotated, ClassVar, Literal

from msgspec import Meta, ValidationError, convert

from schemas.base import END, Integer, WireStruct
from schemas.envelope import Envelope, new_turn
from schemas.errors import InvalidInput
from schemas.events import Event

NAME_PATTERN = rf"^[A-Za-z0-9][A-Za-z0-9_.-]{{0,127}}{END}"
AdapterName = Annotated[str, Meta(pattern=NAME_PATTERN)]
"""A registered name: the name of a folder in the adapters folder, never a path."""

Sha256 = Annotated[str, Meta(pattern=rf"^[0-9a-f]{{64}}{END}")]
"""Digest of the adapter's weights file."""

MaybeName = Annotated[str, Meta(pattern=rf"^([A-Za-z0-9][A-Za-z0-9_.-]{{0,127}})?{END}")]
"""A name as :data:`AdapterName`, or an empty string for none."""

MaybeSha256 = Annotated[str, Meta(pattern=rf"^([0-9a-f]{{64}})?{END}")]
"""A digest as :data:`Sha256`, or an empty string when it is not known: an upstream server does not report digests."""


VerdictState = Literal["ungated", "waiting", "passed", "refused"]
"""What the gates say of weights: "ungated" lay in the folder when the runtime first started with it and are the
operator's own responsibility; "waiting" are not judged yet. Only ungated and passed weights are served."""


class Gate(WireStruct, frozen=True, kw_only=True):
    """One judgement of a proposed adapter: ``value`` against ``bound`` where there are numbers, ``detail`` in words."""

    name: str
    passed: bool
    value: float | None = None
    bound: float | None = None
    detail: str = ""


class AdapterProposed(Event, frozen=True, kw_only=True):
    """Weights wait to be judged: somebody trained them, or a worker saw them in its folder for the first time.

    Read by the gates. ``origin`` says who proposes. A dream judges its proposal itself, and asks the gates on its way.
    """

    subject: ClassVar[str] = "adapter.proposed"
    name: AdapterName
    sha256: Sha256
    origin: str = ""
    base_model: str = ""


class AdapterJudged(Event, frozen=True, kw_only=True):
    """The gates' verdict on weights, whatever they are called. It is final for this digest."""

    subject: ClassVar[str] = "adapter.judged"
    name: AdapterName
    sha256: Sha256
    passed: bool
    gates: tuple[Gate, ...] = ()
    message: str = ""


class AdapterPublished(Event, frozen=True, kw_only=True):
    """The adapter passed all gates. Read by the worker, which loads it and checks that it changes the logits.

    The worker takes it only if the gates' own verdict on this digest (:class:`AdapterJudged`) says the same.
    """

    subject: ClassVar[str] = "adapter.published"
    name: AdapterName
    sha256: Sha256
    origin: str = ""
    gates: tuple[Gate, ...] = ()


class AdapterLoaded(Event, frozen=True, kw_only=True):
    """A worker loaded the adapter into memory because an administrator asked for it.

    The first request that uses it makes the worker check that it changes the logits, and seats it beside others.
    """

    subject: ClassVar[str] = "adapter.loaded"
    name: AdapterName
    sha256: MaybeSha256
    bytes: Integer = 0
    modules: Integer = 0
    seconds: float = 0.0


class AdapterActivated(Event, frozen=True, kw_only=True):
    """A worker serves the adapter from now on: verified, resident and seated. ``seconds`` is how long that took."""

    subject: ClassVar[str] = "adapter.activated"
    name: AdapterName
    sha256: MaybeSha256
    bytes: Integer = 0
    modules: Integer = 0
    seconds: float = 0.0


class AdapterRejected(Event, frozen=True, kw_only=True):
    """The adapter is not served: a gate rejected it, or the worker could not load it; ``message`` says why."""

    subject: ClassVar[str] = "adapter.rejected"
    name: AdapterName
    stage: Literal["gates", "worker"]
    code: str
    message: str
    sha256: MaybeSha256 = ""
    gates: tuple[Gate, ...] = ()


class AdapterUnloaded(Event, frozen=True, kw_only=True):
    """A worker dropped the adapter because an administrator asked for it; a request that names it loads it again."""

    subject: ClassVar[str] = "adapter.unloaded"
    name: AdapterName
    sha256: MaybeSha256 = ""


ADAPTER_EVENTS: tuple[type[Event], ...] = (
    AdapterProposed,
    AdapterJudged,
    AdapterPublished,
    AdapterLoaded,
    AdapterActivated,
    AdapterRejected,
    AdapterUnloaded,
)
"""The events of the ADAPTERS stream, in the order of a life."""


def new_life(name: str, *, tenant: str, timeout: float = 3600.0, key: str | None = None) -> Envelope:
    """The envelope of an adapter's first event.

    ``key`` (the adapter's digest, say) makes the id of the life a function of name and key, so that a retry is the same
    life.
    """
    return new_turn(tenant=tenant, session_id=name, timeout=timeout, key=f"adapter {name} {key}" if key else None)


GATES = "gates"
"""The agent that judges, and the tenant in the events of its verdicts."""


def judgement_of(sha256: str, *, name: str) -> Envelope:
    """The envelope of the verdict on weights. Its id depends on the digest alone."""
    return new_turn(tenant=GATES, session_id=name, timeout=3600.0, key=f"judged {sha256}")


class JudgeRequest(WireStruct, frozen=True, kw_only=True):
    """Judge weights that a worker has under ``name`` or, if given, under the name ``staged``."""

    name: AdapterName
    sha256: Sha256
    staged: MaybeName = ""


class JudgeReply(WireStruct, frozen=True, kw_only=True):
    """The verdict on weights; the same for a digest that was judged before."""

    passed: bool
    gates: tuple[Gate, ...] = ()
    message: str = ""


class AnglesRequest(WireStruct, frozen=True, kw_only=True):
    """Check an adapter's health, and read the angles between it and every other one that is served.

    ``apart`` names one that it does not stand beside: the adapter whose weights it is to replace.
    """

    name: AdapterName
    apart: MaybeName = ""


class AdapterAngle(WireStruct, frozen=True, kw_only=True):
    """The smallest angle, in degrees, between two adapters' changes, and the module where it is."""

    name: str
    sha256: str
    angle: float
    module: str = ""


class AnglesReply(WireStruct, frozen=True, kw_only=True):
    """An adapter's digest, why it is not healthy (empty when it is), and the others that it was compared with."""

    sha256: str
    fault: str = ""
    others: tuple[AdapterAngle, ...] = ()


class AdapterRequest(WireStruct, frozen=True, kw_only=True):
    """A registered adapter by its name, never a path. ``sha256``, unless empty, is the digest that it must have."""

    name: AdapterName
    sha256: MaybeSha256 = ""


def adapter_request(name: str) -> AdapterRequest:
    """The request for the adapter that a client names.

    Raises:
        InvalidInput: it is not the name of an adapter.
    """
    try:
        return convert({"name": name}, AdapterRequest)
    except ValidationError as error:
        raise InvalidInput(f"'{name}' is not the name of an adapter: {error}.", param="name") from error


class AdapterListRequest(WireStruct, frozen=True, kw_only=True):
    """List the adapters that the worker knows."""


class AdapterInfo(WireStruct, frozen=True, kw_only=True):
    """An adapter as the worker has it: ``resident`` in memory, ``seated`` beside others, ``active`` in the model.

    ``sha256``, ``bytes``, ``modules`` and ``norm`` (the Frobenius norm of the adapter's whole change of the weights)
    are known once the adapter was read; ``seconds`` is how long the request took. ``verdict`` is what the gates say of
    its weights, with the reason of a refusal in ``refusal``; None for adapters of an upstream server. ``worker`` is
    who says so.
    """

    name: str
    worker: str = ""
    resident: bool = False
    seated: bool = False
    active: bool = False
    sha256: str = ""
    bytes: Integer = 0
    modules: Integer = 0
    seconds: float = 0.0
    norm: float | None = None
    verdict: VerdictState | None = None
    refusal: str = ""


class AdapterListReply(WireStruct, frozen=True, kw_only=True):
    """All registered adapters of one ``worker``, sorted by name; they may take ``budget`` bytes in memory."""

    adapters: tuple[AdapterInfo, ...]
    budget: Integer = 0
    worker: str = ""
