"""Executes one dream episode, from its slice to its outputs. The new weights are a proposal in the object store."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.to_thread
import msgspec

from agents.dream import merging, projection
from agents.dream.budget import Meter, budget_error
from agents.dream.invariants import check_finite, check_hierarchy
from agents.dream.latents import draw_samples
from agents.dream.projection import ProtectedDirections
from agents.dream.ring import read_latest
from agents.dream.settings import DreamSettings
from agents.dream.training import train_with_watchdog
from agents.dream.weights import ExportedAdapter, export_adapter, fetch_directions
from agents.shared.adapters import low_rank
from agents.shared.adapters.low_rank import Factors, Weights
from bus.connection import Bus
from bus.storage import objects
from schemas.consolidation import Example, TrainRequest
from schemas.dream import DreamReport, DreamRequested, LatentSample, Operation, TopologyChange, WeightDelta
from schemas.errors import KikiError, StageFailed

T = TypeVar("T")


class Execution:
    """A dream episode while it is executed. ``report`` says at any time how far it has come."""

    def __init__(self, bus: Bus, settings: DreamSettings, event: DreamRequested) -> None:
        self._bus, self._settings, self._profile = bus, settings, event.profile
        self._episode, self._slice = event.episode, event.episode.input_slice
        self._meter = Meter(budget=self._episode.budget, watts=settings.watts)
        self._executed: list[Operation] = []
        self._losses: tuple[float | None, float | None] = (None, None)
        self._removed_paths: tuple[str, ...] = ()
        self._samples: tuple[LatentSample, ...] = ()
        self._base: ExportedAdapter
        self._weights: Weights

    @property
    def report(self) -> DreamReport:
        """The operations begun and the costs so far; the outputs are added by :meth:`run`."""
        return DreamReport(
            episode_id=self._episode.episode_id,
            profile=self._profile,
            trigger=self._episode.trigger,
            adapter=self._slice.adapter,
            executed=tuple(self._executed),
            record_ids=tuple(record.id for record in self._slice.beta_records),
            owners=tuple(sorted({record.owner for record in self._slice.beta_records if record.owner is not None})),
            spent=self._meter.spent,
        )

    async def run(self) -> DreamReport:
        """Run every operation in order, within the budget.

        Raises:
            StageFailed: code ``budget_exceeded`` or ``invariant_broken``; the new weights are
                discarded.
            KikiError: the worker or the broker is away, or refuses.
        """
        self._meter.charge(0.0)
        with anyio.move_on_after(self._meter.seconds_left) as scope:
            await self._run_operations()
        if scope.cancelled_caught:
            self._meter.charge(0.0)
            raise budget_error("wall_time_s", "has run out")
        self._meter.charge(0.0)
        return await self._collect_outputs()

    async def _run_operations(self) -> None:
        self._base = await export_adapter(self._bus, self._slice.adapter, timeout=self._settings.worker_timeout)
        self._weights = self._base.weights
        steps: dict[Operation, Callable[[], Any]] = {
            "replay": self._replay,
            "downscale": self._downscale,
            "restructure": self._restructure,
            "recombine": self._recombine,
        }
        for operation in self._episode.operation_set:
            self._executed.append(operation)
            await steps[operation]()
        check_finite(self._weights)

    async def _replay(self) -> None:
        meter, settings, input_slice = self._meter, self._settings, self._slice
        weights = await objects.put(self._bus, low_rank.dump(self._weights, scale=self._base.scale))
        beat = self._bus.new_inbox()
        request = TrainRequest(
            name=input_slice.adapter,
            weights=weights,
            examples=tuple(
                Example(context=record.context, outcome=record.outcome) for record in input_slice.beta_records
            ),
            passes=settings.passes,
            learning_rate=settings.learning_rate,
            flops=meter.flops_left,
            seconds=meter.seconds_left,
            beat=beat,
        )
        try:
            reply = await train_with_watchdog(
                self._bus, request, timeout=meter.seconds_left + 5.0, silence=settings.silence
            )
        except KikiError as error:
            raise _as_budget_error(error) from error
        meter.charge(reply.flops)
        self._losses = reply.loss_before, reply.loss_after
        data = await objects.get(self._bus, reply.weights)
        self._weights = low_rank.load(input_slice.adapter, data, scale=self._base.scale)

    async def _downscale(self) -> None:
        self._meter.charge(float(low_rank.size(self._weights)))
        self._weights = low_rank.downscaled(self._weights, self._settings.shrink)

    async def _restructure(self) -> None:
        settings = self._settings
        base = await fetch_directions(
            self._bus, self._slice.adapter, settings.directions, timeout=self._meter.seconds_left + 5.0
        )
        other_weights = [adapter.weights for adapter in await self._export_others()]
        protected = await self._compute(partial(_directions_to_protect, self._weights, base, other_weights))
        self._meter.charge(projection.flops(self._weights, protected))
        before = self._weights
        self._weights, self._removed_paths = await self._compute(partial(projection.restructure, before, protected))
        check_hierarchy(tuple(self._weights), tuple(before))

    async def _recombine(self) -> None:
        adapters = [self._weights, *[adapter.weights for adapter in await self._export_others()]]
        self._meter.charge(merging.flops(adapters))
        merge = partial(merging.recombine, adapters, density=self._settings.density, scale=self._settings.merge_scale)
        self._weights = await self._compute(merge)
        if "latent_sample" in self._episode.output_channels:
            snapshots = await read_latest(self._bus, self._slice.snapshots)
            self._samples = draw_samples(snapshots, episode_id=self._episode.episode_id)

    async def _export_others(self) -> list[ExportedAdapter]:
        timeout = self._settings.worker_timeout
        return [await export_adapter(self._bus, name, timeout=timeout) for name in self._slice.others]

    async def _compute(self, call: Callable[[], T]) -> T:
        """Run ``call`` on a thread, which is abandoned when the time is up."""
        return await anyio.to_thread.run_sync(call, abandon_on_cancel=True)

    async def _collect_outputs(self) -> DreamReport:
        channels, input_slice = self._episode.output_channels, self._slice
        changes: dict[str, Any] = {}
        if "weight_delta" in channels:
            changes["weight_delta"] = await self._store_delta()
        if "hierarchy_chg" in channels:
            changes["hierarchy_chg"] = tuple(TopologyChange(kind="remove", module=path) for path in self._removed_paths)
        if "latent_sample" in channels:
            changes["latent_sample"] = self._samples
        if "attention_prior" in channels:
            scores = [record.saillance_score for record in input_slice.beta_records]
            changes["attention_prior"] = {input_slice.adapter: sum(scores) / len(scores)}
        return msgspec.structs.replace(self.report, **changes)

    async def _store_delta(self) -> WeightDelta:
        data = low_rank.dump(self._weights, scale=self._base.scale)
        return WeightDelta(
            adapter=self._slice.adapter,
            sha256=await objects.put(self._bus, data),
            base_sha256=self._base.sha256,
            bytes=len(data),
            loss_before=self._losses[0],
            loss_after=self._losses[1],
        )


def _directions_to_protect(
    weights: Weights, base: dict[str, ProtectedDirections], other_adapters: list[dict[str, Factors]]
) -> dict[str, ProtectedDirections]:
    """Directions to protect, by module: the base's leading ones, and all that other adapters use in that module."""
    directions_by_path: dict[str, ProtectedDirections] = {}
    for path in weights:
        parts = [base[path]] if path in base else []
        parts += [projection.directions_of(adapter[path]) for adapter in other_adapters if path in adapter]
        if parts:
            directions_by_path[path] = projection.union(parts)
    return directions_by_path


def _as_budget_error(error: KikiError) -> KikiError:
    """The worker's budget error with the episode's field: the worker's ``seconds`` is the budget's ``wall_time_s``."""
    if error.code != "budget_exceeded":
        return error
    name = {"seconds": "wall_time_s"}.get(error.param or "", error.param)
    return StageFailed(error.message, code=error.code, param=f"episode.budget.{name}")
