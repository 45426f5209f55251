"""A substrate for dream-of-kiki's own runtime: its primitives and handler factories over a running micro-kiki.

That runtime is plain Python without an event loop, so all calls here block; a thread of this object's own runs the bus.
Weights are changed on a working copy (``adapter``); the adapter that answers clients changes only by
:meth:`KikiSubstrate.swap`.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any, TypeVar

import anyio.from_thread
import msgspec
import numpy as np
from safetensors.numpy import load, save

from agents.dream.merging import merge_by_ties
from agents.dream.projection import span
from agents.shared.adapters.low_rank import Array
from bus.access.login import Login, find_login
from bus.connection import Bus, BusSettings, connect
from bus.storage import objects
from schemas.calls import (
    ADAPTERS_EXPORT,
    ADAPTERS_TRAIN,
    DREAM_FETCH,
    DREAM_REQUEST,
    DREAM_STATUS,
    DREAM_SWAP,
    SERVICES_MARK,
    SERVICES_REGISTER,
    Service,
)
from schemas.consolidation import (
    Example,
    ExportRequest,
    SwapReply,
    SwapRequest,
    TrainRequest,
)
from schemas.dream import BetaRequest, DreamRequest, DreamStatus, DreamStatusRequest
from schemas.errors import InvalidInput, KikiError
from schemas.events import EpisodeRecorded
from schemas.services import EpisodeFilter, MarkRequest, RegisterRequest

TIMEOUT = 60.0
"""Seconds for a short request."""

LONG = 3600.0
"""Seconds for a training or a swap."""

POLL = 0.25
"""Seconds between two requests for an episode's status."""

Q = TypeVar("Q", bound=msgspec.Struct | None)
R = TypeVar("R", bound=msgspec.Struct)


class KikiSubstrate:
    """One adapter of one runtime, for as long as the ``with`` lasts. ``service`` is the name of
    the service whose place in the record is kept, ``login`` that of the client without one (:mod:`bus.access.login`).

    Raises:
        Unavailable: no broker answers, or a part of the runtime is away.
        StageFailed: code ``adapter_failed``: the adapter cannot be consolidated.
    """

    def __init__(
        self,
        url: str,
        adapter: str,
        *,
        service: str = "dream-of-kiki",
        min_saillance: float = 0.0,
        learning_rate: float = 1e-4,
        prefix: str = "kiki",
        login: Login | None = None,
    ) -> None:
        self._settings = BusSettings(url=url, login=login or find_login(url), prefix=prefix)
        self._name, self._service = adapter, service
        self._filter, self._learning_rate = EpisodeFilter(min_saillance=min_saillance), learning_rate
        self._stack: ExitStack
        self._bus: Bus
        self._portal: Any
        self.adapter: dict[str, Array] = {}
        self.base_sha256 = ""

    def __enter__(self) -> "KikiSubstrate":
        with ExitStack() as stack:
            self._portal = stack.enter_context(anyio.from_thread.start_blocking_portal())
            opening = self._portal.wrap_async_context_manager(connect(self._settings, name=self._service))
            self._bus = stack.enter_context(opening)
            self._register()
            self.refresh()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def refresh(self) -> None:
        """Replace the working copy by the adapter in use."""
        reply = self._ask(ADAPTERS_EXPORT, ExportRequest(name=self._name))
        self.adapter, self.base_sha256 = load(self._portal.call(objects.get, self._bus, reply.weights)), reply.sha256

    def fetch_unconsumed(self, limit: int, *, pairs: bool = False) -> list[dict[str, Any]]:
        """The oldest records that were not consumed, in order; with ``pairs`` also ``x`` and ``y``."""
        reply = self._ask(DREAM_FETCH, BetaRequest(name=self._service, limit=limit, pairs=pairs))
        return [msgspec.to_builtins(record) for record in reply.records]

    def mark_consumed(self, record_ids: Sequence[int], de_id: str) -> None:
        """Mark the next records in order as consumed by the dream episode ``de_id``."""
        request = MarkRequest(name=self._service, ids=tuple(record_ids), de_id=de_id)
        self._ask(SERVICES_MARK, request)

    def replay_handler_factory(self) -> Callable[[list[dict[str, Any]], int], Array]:
        """Handlers that train on records for ``n_steps`` gradient steps, rounded up to whole passes.

        They return the change of the working copy as one flat array, in the order of the tensors' names.
        """

        def handler(beta_records: list[dict[str, Any]], n_steps: int = 20) -> Array:
            if not beta_records:
                return np.zeros(1, dtype=np.float32)
            before = self.adapter
            request = TrainRequest(
                name=self._name,
                weights=self._store_weights(),
                examples=tuple(
                    Example(context=record["context"], outcome=record["outcome"]) for record in beta_records
                ),
                passes=max(1, -(-n_steps // len(beta_records))),
                learning_rate=self._learning_rate,
                flops=1e30,
                seconds=LONG,
            )
            reply = self._ask(ADAPTERS_TRAIN, request, timeout=LONG)
            self.adapter = load(self._portal.call(objects.get, self._bus, reply.weights))
            return np.concatenate([(self.adapter[key] - before[key]).ravel() for key in sorted(before)])

        return handler

    def downscale_handler_factory(self) -> Callable[[Array, float], Array]:
        """Handlers that multiply weights by a factor in (0, 1]."""

        def handler(weights: Array, factor: float) -> Array:
            if not 0.0 < factor <= 1.0:
                raise InvalidInput(f"the factor is {factor}, outside (0, 1].", param="factor")
            return (weights * factor).astype(weights.dtype, copy=False)

        return handler

    def restructure_handler_factory(self) -> Callable[[dict[str, Any], str, str], dict[str, Any]]:
        """Handlers that remove the range of ``adapter["prior_deltas"]`` from one side (outputs, rank) of an adapter."""

        def handler(adapter: dict[str, Any], op: str, key: str) -> dict[str, Any]:
            _check_operation(op, ("oplora", "oplora_project", "project"))
            if key not in adapter or np.ndim(adapter[key]) != 2:
                raise InvalidInput(f"the adapter has no matrix '{key}'.", param="key")
            priors = [np.asarray(prior, dtype=np.float64) for prior in adapter.get("prior_deltas", ())]
            if priors:
                side, basis = np.asarray(adapter[key]), span(np.concatenate(priors, axis=1))
                adapter[key] = (side - basis @ (basis.T @ side)).astype(side.dtype)
            return adapter

        return handler

    def recombine_handler_factory(
        self, trim_fraction: float = 0.2, alpha: float = 1.0
    ) -> Callable[[Mapping[str, Any], str], Array]:
        """Handlers that merge ``payload["deltas"]``, matrices of one shape, by TIES."""

        def handler(payload: Mapping[str, Any], op: str = "ties") -> Array:
            _check_operation(op, ("ties", "ties_merge", "merge"))
            deltas = [np.asarray(delta) for delta in payload.get("deltas", ())]
            if not deltas or any(delta.shape != deltas[0].shape for delta in deltas):
                raise InvalidInput("deltas are one or more matrices of one shape.", param="deltas")
            return merge_by_ties(deltas, density=trim_fraction, scale=alpha).astype(deltas[0].dtype)

        return handler

    def consume_episode(self, request: DreamRequest) -> DreamStatus:
        """Have the dream agent execute an episode, and wait for its entry in the log."""
        self._ask(DREAM_REQUEST, request)
        query = DreamStatusRequest(episode_id=request.episode.episode_id)
        while (status := self._ask(DREAM_STATUS, query)).state == "waiting":
            self._portal.call(anyio.sleep, POLL)
        return status

    def swap(self, de_id: str, *, others: Sequence[str] = ()) -> SwapReply:
        """Put the working copy into use, if the invariants hold; afterwards it is the new base.

        Raises:
            KikiError: code ``invariant_broken``; ``param`` names the invariant.
        """
        request = SwapRequest(
            episode_id=de_id,
            adapter=self._name,
            sha256=self._store_weights(),
            base_sha256=self.base_sha256,
            others=tuple(others),
        )
        reply = self._ask(DREAM_SWAP, request, timeout=LONG)
        self.base_sha256 = reply.sha256
        return reply

    def _register(self) -> None:
        # There is nothing to learn from a tombstone.
        request = RegisterRequest(name=self._service, subjects=(EpisodeRecorded.subject,), filter=self._filter)
        try:
            self._ask(SERVICES_REGISTER, request)
        except KikiError as error:
            if error.code != "name_taken":
                raise

    def _store_weights(self) -> str:
        data = save({key: np.ascontiguousarray(self.adapter[key]) for key in sorted(self.adapter)})
        digest: str = self._portal.call(objects.put, self._bus, data)
        return digest

    def _ask(self, service: Service[Q, R], body: Q, *, timeout: float = TIMEOUT) -> R:
        async def send_request() -> R:
            return await self._bus.request(service, body, timeout=timeout)

        result: R = self._portal.call(send_request)
        return result


def _check_operation(op: str, allowed: tuple[str, ...]) -> None:
    if op not in allowed:
        raise InvalidInput(f"there is no operation '{op}': choose from {', '.join(allowed)}.", param="op")
