"""Requests of consolidation: the swap of an adapter, and the steps that the worker carries out for it.

Weights travel as safetensors files in mlx-lm's layout, by their sha256 in the store of :mod:`bus.storage.objects`.
The outcome of a swap is published as ``adapter.*`` events (:mod:`schemas.adapters`).
"""

from typing import Annotated

from msgspec import Meta

from schemas.adapters import AdapterName, Sha256
from schemas.base import Integer, WireStruct
from schemas.dream import EpisodeId
from schemas.numbers import Amount, Number

MAX_EXAMPLES = 256


class SwapRequest(WireStruct, frozen=True, kw_only=True):
    """Replace the adapter's weights ``base_sha256`` by ``sha256``, if all invariants hold.

    A repeated request is the same swap. The gates judge the new weights against every adapter that is served;
    ``others`` are those whose modules they may change, beside the adapter's own.
    """

    episode_id: EpisodeId
    adapter: AdapterName
    sha256: Sha256
    base_sha256: Sha256
    others: Annotated[tuple[AdapterName, ...], Meta(max_length=8)] = ()
    attention_prior: Annotated[dict[str, Number], Meta(max_length=64)] = {}


class SwapReply(WireStruct, frozen=True, kw_only=True):
    """The adapter that answers from now on; ``pause_ms`` is 0 when an earlier request had made the exchange."""

    episode_id: str
    adapter: str
    sha256: str
    base_sha256: str
    pause_ms: float
    retained_before: float
    retained_after: float


class ExportRequest(WireStruct, frozen=True, kw_only=True):
    """Put a registered adapter's weights into the object store."""

    name: AdapterName


class ExportReply(WireStruct, frozen=True, kw_only=True):
    """Where the weights are.

    ``sha256`` is the digest of the file in use. ``weights`` is the digest that names the object: the same digest,
    unless the file was in bfloat16. ``scale`` is what the adapter's change is multiplied by.
    """

    name: str
    sha256: str
    weights: str
    scale: float
    modules: Integer
    bytes: Integer


class StageRequest(WireStruct, frozen=True, kw_only=True):
    """Register weights of an adapter under a name of their own, so that they can be judged before they answer.

    They come from the object store, or with ``present`` from the adapter's own folder, if they have that digest.
    """

    name: AdapterName
    weights: Sha256
    present: bool = False


class StageReply(WireStruct, frozen=True, kw_only=True):
    """The name under which the staged weights can be asked for, and the digest of those in use (``base_sha256``)."""

    staged: str
    sha256: str
    bytes: Integer
    base_sha256: str = ""


class ExchangeRequest(WireStruct, frozen=True, kw_only=True):
    """Replace the adapter's weights by staged ones, if the adapter's are still ``base_sha256``."""

    name: AdapterName
    staged: AdapterName
    base_sha256: Sha256


class ExchangeReply(WireStruct, frozen=True, kw_only=True):
    """The weights that answer now; ``pause_ms`` is how long nothing was decoded."""

    name: str
    sha256: str
    pause_ms: float


class RestoreRequest(WireStruct, frozen=True, kw_only=True):
    """Put back the weights ``base_sha256`` that staged ones have replaced. As often as one likes, before a discard."""

    name: AdapterName
    staged: AdapterName
    base_sha256: Sha256


class RestoreReply(WireStruct, frozen=True, kw_only=True):
    """The weights that answer now."""

    name: str
    sha256: str


class DiscardRequest(WireStruct, frozen=True, kw_only=True):
    """Drop staged weights."""

    staged: AdapterName


class DiscardReply(WireStruct, frozen=True, kw_only=True):
    """Whether there were such staged weights."""

    discarded: bool


class Example(WireStruct, frozen=True, kw_only=True):
    """A question, and the answer that the adapter learns to give."""

    context: str
    outcome: Annotated[str, Meta(min_length=1)]


class TrainRequest(WireStruct, frozen=True, kw_only=True):
    """Train an adapter: one gradient step for each example in each pass, in order; the base weights stay as they are.

    ``flops`` and ``seconds`` are the most that the training may cost. ``beat`` is a subject on which the worker sends a
    message after every step, so that the caller can tell a long training from a worker that died.
    """

    name: AdapterName
    weights: Sha256
    examples: Annotated[tuple[Example, ...], Meta(min_length=1, max_length=MAX_EXAMPLES)]
    passes: Annotated[int, Meta(ge=1, le=100)] = 1
    learning_rate: Annotated[float, Meta(gt=0.0, le=1.0)] = 1e-4
    flops: Amount
    seconds: Amount
    beat: str = ""


class TrainReply(WireStruct, frozen=True, kw_only=True):
    """The new weights' digest. Losses are mean cross-entropies of the outcomes in nats per token."""

    weights: str
    loss_before: float
    loss_after: float
    steps: Integer
    tokens: Integer
    flops: float
    seconds: float


class ProtectRequest(WireStruct, frozen=True, kw_only=True):
    """Store the ``k`` leading singular directions of the frozen weights that an adapter changes, as an object."""

    name: AdapterName
    k: Annotated[int, Meta(ge=1, le=128)]


class ProtectReply(WireStruct, frozen=True, kw_only=True):
    """The object's digest; it holds ``<module>.left`` (..., rows, k) and ``<module>.right`` (..., columns, k)."""

    directions: str
