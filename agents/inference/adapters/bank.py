"""The bank of resident adapters: reads them once, keeps them under a byte budget, and puts them into the model.

The base weights are never touched. A changed module is a wrapper around the base module, made once; activating
swaps the wrapper's low-rank tensors. "No adapter" puts the base modules themselves back, so that the base's results are
the same bit for bit.

A set of adapters that shares a batch with others gets a seat (:mod:`agents.inference.adapters.stacks`). *Mounting* puts
seats into the model: one seat *in place* (its pairs for all rows), several *side by side* (the stacks). *Proving* an
adapter checks, once for each digest, that it changes the model's logits.

The budget counts what adapters take: the pairs that were read, and the stacks. What no running row uses leaves first,
the least recently used before the others. While a file is read and verified, its own bytes come on top. All methods
but :meth:`AdapterBank.warm` belong to the thread that owns the model.
"""

import contextlib
import time
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
from msgspec import structs
from prometheus_client import Histogram

from agents.inference.adapters import mixed as mixing
from agents.inference.adapters.files import Adapter, combine, read_adapter
from agents.inference.adapters.modules import ModulePlaces
from agents.inference.adapters.pairs import LowRankPair
from agents.inference.adapters.placement import Placement
from agents.inference.adapters.proofs import Proofs
from agents.inference.adapters.registration import RegisteredAdapters, require_digest
from agents.inference.adapters.stacks import BASE, Seat, SeatStacks, count_held, count_stacked, measure_set
from agents.inference.failures import adapter_error
from agents.shared.adapters.verdicts import read_digest
from bus import metrics
from bus.metrics import count_degraded
from schemas.errors import KikiError
from schemas.findings import AdapterUse

SWAP_SECONDS = Histogram(
    "kiki_adapter_swap_seconds",
    "Seconds that it takes to put other adapters into the model",
    registry=metrics.REGISTRY,
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1),
)


@dataclass(frozen=True)
class _Resident:
    adapter: Adapter
    stamp: tuple[str, int, int]


class AdapterBank:
    """Adapters of one folder for one model. ``folder`` None: there are none; ``budget`` in bytes.

    With ``is_judged`` only those are served that the gates let through. ``seats``: how many sets of adapters, besides
    the base, may be mounted side by side.

    Raises:
        SetupError: the folder does not exist.
    """

    def __init__(
        self, model: Any, folder: Path | None, *, budget: int, seats: int = 8, is_judged: bool = False
    ) -> None:
        self._model, self.budget = model, budget
        self.registration = RegisteredAdapters(folder, is_judged=is_judged)
        self.places = ModulePlaces(model)
        self._base = self.places.base
        self._stacks = SeatStacks(self.places)
        self._placement = Placement(self.places, self._stacks)
        self._max_seats = seats
        self._seats: OrderedDict[tuple[AdapterUse, ...], Seat] = OrderedDict()
        self._busy_slots: frozenset[int] = frozenset()
        self._fits: dict[frozenset[tuple[AdapterUse, ...]], bool] = {}
        self._resident: OrderedDict[str, _Resident] = OrderedDict()
        self._proofs = Proofs(model)
        self.active: tuple[AdapterUse, ...] = ()
        self.swaps = self.counted_bytes = 0
        self.last_swap_ms = 0.0

    @property
    def model(self) -> Any:
        """The model, with the adapters that are mounted now."""
        return self._model

    @property
    def modules(self) -> Mapping[str, Any]:
        """The base's own modules by path."""
        return self._base

    @property
    def folder(self) -> Path | None:
        """Where the adapters lie."""
        return self.registration.folder

    @property
    def rows(self) -> mixing.Rows:
        """The rows of the current forward pass."""
        return self._stacks.rows

    @property
    def weight_count(self) -> int:
        """Numbers in the base's weights; quantised ones are counted unpacked."""
        modules = [module for module in self._base.values() if isinstance(module.get("weight"), mx.array)]
        return sum(int(module.weight.size) * (32 // module.bits if "scales" in module else 1) for module in modules)

    @property
    def resident_bytes(self) -> int:
        """Bytes of all pairs and stacks that are kept; ``counted_bytes`` is what it was when room was made last, for
        other threads."""
        self.counted_bytes = self._count_bytes()
        return self.counted_bytes

    def _count_bytes(self) -> int:
        return self._stacks.nbytes + count_held(
            [
                *(resident.adapter.pairs for resident in self._resident.values()),
                *(seat.pairs for seat in self._seats.values()),
                self._placement.pairs,
            ]
        )

    @property
    def resident(self) -> tuple[str, ...]:
        """Names of the adapters kept, the least recently used first."""
        return tuple(self._resident)

    def is_registered(self, name: str) -> bool:
        """Whether the folder holds an adapter of that name; a name is never a path."""
        return name in self.registration

    def warm(self, names: Iterable[str]) -> None:
        """Read the files of registered adapters, so that loading them later reads no disk. Safe on any thread."""
        for name in names:
            with contextlib.suppress(KikiError, OSError):  # the load that follows reports the error
                read_digest(self.registration.find_file(name))

    @property
    def registered_names(self) -> tuple[str, ...]:
        """Names of all adapters of the folder, sorted."""
        return self.registration.names

    def find_resident(self, name: str) -> Adapter | None:
        """The resident adapter of that name."""
        resident = self._resident.get(name)
        return resident.adapter if resident is not None else None

    @property
    def seated_sets(self) -> tuple[tuple[AdapterUse, ...], ...]:
        """Sets of adapters that have a seat."""
        return tuple(self._seats)

    def check(self, name: str) -> Adapter:
        """Read and verify an adapter without keeping it.

        Raises:
            StageFailed: code ``adapter_failed``.
        """
        return read_adapter(name, self.registration.find_folder(name), self._base)

    def unload(self, name: str, *, busy_slots: Collection[int] = ()) -> bool:
        """Drop a resident adapter and its seats. Returns whether it was resident or had a seat.

        Raises:
            StageFailed: code ``adapter_failed``: rows of the batch use it.
        """
        seats = {key: seat for key, seat in self._seats.items() if any(use.name == name for use in key)}
        if any(seat.slot in busy_slots for seat in seats.values()):
            raise adapter_error(name, "requests are using it; unload it when they are done")
        self._busy_slots = frozenset(busy_slots)
        is_known = name in self._resident or bool(seats)
        self._forget(name)
        self._make_room(0)
        return is_known

    def load(self, name: str) -> Adapter:
        """Read the adapter and keep it; it is read again if its file has changed. It is not kept while running rows
        fill the budget.

        Raises:
            StageFailed: code ``adapter_failed``; or ``adapter_not_judged`` or ``adapter_refused`` by the gates.
        """
        stamp = self.registration.stamp(name)
        resident = self._resident.get(name)
        if resident is not None and resident.stamp == stamp:
            self.registration.require_served(name, resident.adapter.sha256)
            self._resident.move_to_end(name)
            return resident.adapter
        adapter = self.check(name)
        self.registration.require_served(name, adapter.sha256)
        if adapter.nbytes > self.budget:
            raise adapter_error(name, f"it has {adapter.nbytes} bytes and the budget is {self.budget}")
        self._fits.clear()
        self._resident.pop(name, None)
        if self._make_room(adapter.nbytes):
            self._resident[name] = _Resident(adapter, stamp)
            self.counted_bytes += adapter.nbytes
        return adapter

    def prefetch(self, name: str) -> None:
        """Make the adapter resident if running rows leave room for it.

        Raises:
            StageFailed: code ``adapter_failed``.
        """
        _, _, size = stamp = self.registration.stamp(name)
        resident = self._resident.get(name)
        if (resident is not None and resident.stamp == stamp) or self._make_room(size):
            self.load(name)

    def require(self, uses: Sequence[AdapterUse]) -> None:
        """Check that the adapters can be served: those that were never proven are read and verified.

        Raises:
            StageFailed: code ``adapter_failed``.
        """
        pinned_uses = self.registration.pin(uses)
        self.load_all([use for use in pinned_uses if use.sha256 not in self._proofs])

    def load_all(self, uses: Sequence[AdapterUse]) -> list[Adapter]:
        """Make the adapters of a set resident and return them.

        Raises:
            StageFailed: code ``adapter_failed``, also when a file has another digest than the one asked for.
        """
        adapters = [self.load(use.name) for use in uses]
        for use, adapter in zip(uses, adapters, strict=True):
            require_digest(use, adapter.sha256)
        return adapters

    def renew(self, name: str, adapter: Adapter) -> None:
        """Replace the resident adapter of ``name`` by ``adapter``, whose weights its file now holds. Running rows keep
        their pairs."""
        self._resident[name] = _Resident(replace(adapter, name=name), self.registration.stamp(name))
        self._resident.move_to_end(name)

    def prove(self, name: str) -> Adapter:
        """Make the adapter resident and prove it, without a seat.

        Raises:
            StageFailed: code ``adapter_failed``.
        """
        uses = (AdapterUse(name=name),)
        adapters = self.load_all(uses)
        self._prove_alone(_pin_digests(uses, adapters), self._combine(uses, adapters), adapters)
        return adapters[0]

    def prepare(self, name: str, *, busy_slots: Collection[int]) -> None:
        """Prove an adapter and give it a seat if one is free, so that its next request need not wait for either.

        Raises:
            StageFailed: code ``adapter_failed``.
        """
        uses = (AdapterUse(name=name),)
        is_free = len(self._seats) < self._max_seats or any(
            seat.slot not in busy_slots for seat in self._seats.values()
        )
        busy = [seat.uses for seat in self._seats.values() if seat.slot in busy_slots]
        if is_free and self.fit_together([*busy, uses]):
            self.seat(uses, busy_slots=busy_slots)

    def place(self, pairs: dict[str, LowRankPair]) -> None:
        """Put these pairs into the model for all rows; within :meth:`borrow_model`."""
        self._placement.put(pairs)

    @contextlib.contextmanager
    def borrow_model(self) -> Iterator[None]:
        """Let the caller place pairs, in training mode; at the end they are removed, and what was mounted before is
        mounted again."""
        pairs, active, was_mixed = self._placement.pairs, self.active, self._placement.mixed
        self._model.train()  # layers and kernels that have no gradient are avoided
        try:
            yield
        finally:
            self._model.eval()
            if was_mixed:
                self._mount_side_by_side(self._stacks.seats)
            else:
                self._placement.put(pairs)
                self.active = active

    def activate(self, uses: Sequence[AdapterUse]) -> tuple[AdapterUse, ...]:
        """Put exactly these adapters into the model, for all rows; an empty set restores the base.

        Returns:
            The adapters with the digests of the files used.

        Raises:
            StageFailed: code ``adapter_failed``; the model is as it was before.
        """
        adapters = self.load_all(uses)
        pinned_uses = _pin_digests(uses, adapters)
        self._activate(pinned_uses, self._combine(uses, adapters), adapters)
        return self.active

    def seat(self, uses: Sequence[AdapterUse], *, busy_slots: Collection[int] = ()) -> Seat:
        """A seat for this set, which is loaded and proven; seats in ``busy_slots`` are not given away.

        Raises:
            StageFailed: code ``adapter_failed``; the model and the seats are as they were before.
        """
        self._busy_slots = frozenset(busy_slots)
        if not uses:
            return BASE
        pinned_uses = self.registration.pin(uses)
        if pinned_uses not in self._seats:
            adapters = self.load_all(pinned_uses)
            pairs = self._combine(uses, adapters)
            self._prove_alone(pinned_uses, pairs, adapters)
            if not self.mixable(uses):
                return Seat(slot=0, uses=pinned_uses, pairs=pairs)
            slot = self._free_slot(busy_slots)
            self._seats = OrderedDict((key, seat) for key, seat in self._seats.items() if seat.slot != slot)
            self._seats[pinned_uses] = Seat(slot=slot, uses=pinned_uses, pairs=pairs)
            self._busy_slots |= {slot}
            if not self._make_room(0):
                count_degraded("adapter.over_budget", f"{self.resident_bytes} bytes are in use of {self.budget}")
        self._seats.move_to_end(pinned_uses)
        for use in pinned_uses:
            if use.name in self._resident:
                self._resident.move_to_end(use.name)
        return self._seats[pinned_uses]

    def mixable(self, uses: Sequence[AdapterUse]) -> bool:
        """Whether this set may ever share a batch with others: the model's expert layers must be of a known kind."""
        return not uses or (self._max_seats > 0 and self._stacks.can_mix)

    def fit_together(self, sets: Collection[tuple[AdapterUse, ...]]) -> bool:
        """Whether the stacks of these sets fit in the budget. The base takes nothing; one set alone needs no stack."""
        adapter_sets = frozenset(uses for uses in sets if uses)
        if len(adapter_sets) < 2:
            return True
        if adapter_sets not in self._fits:
            try:
                fits = count_stacked([measure_set(self.registration, uses) for uses in adapter_sets]) <= self.budget
            except (KikiError, OSError, ValueError, KeyError, TypeError):
                return False  # loading it will report what is wrong with its file
            self._fits[adapter_sets] = fits
        return self._fits[adapter_sets]

    def note_busy(self, busy_slots: Collection[int]) -> None:
        """Say which seats running rows use: these stay when room is made."""
        self._busy_slots = frozenset(busy_slots)

    def mount(self, seats: Collection[Seat]) -> None:
        """Make the model serve rows of these seats: one in place, several side by side."""
        started, swaps_before = time.perf_counter(), self.swaps
        self._mount(seats)
        if self.swaps != swaps_before:
            seconds = time.perf_counter() - started
            self.last_swap_ms = seconds * 1000
            SWAP_SECONDS.observe(seconds)

    def _mount(self, seats: Collection[Seat]) -> None:
        if len(seats) <= 1:
            (seat,) = seats or (BASE,)
            if self._placement.mixed or seat.uses != self.active:
                self._placement.put(seat.pairs)
                self.active = seat.uses
                self.swaps += 1
            return
        needed = [seat for seat in seats if seat.slot]
        if not self._placement.mixed or not set(needed) <= set(self._stacks.seats):
            self._mount_side_by_side(self._choose_stacked(needed))
            self._busy_slots = frozenset(seat.slot for seat in needed)
            self._make_room(0)
            self.swaps += 1

    def _choose_stacked(self, needed: Collection[Seat]) -> Sequence[Seat]:
        """The seats to stack: those that are needed, and idle ones as long as the stacks fit in the budget."""
        if set(needed) <= set(self._stacks.seats):
            return self._stacks.seats
        chosen = list(needed)
        for seat in reversed(self._seats.values()):
            if seat not in chosen and self.fit_together([other.uses for other in (*chosen, seat)]):
                chosen.append(seat)
        return sorted(chosen, key=lambda seat: seat.slot)

    def _make_room(self, size: int) -> bool:
        """Let go of what no running row uses until ``size`` more bytes fit. Returns whether they do."""
        while self.resident_bytes + size > self.budget:
            if not self._let_go():
                return False
        return True

    def _let_go(self) -> bool:
        """Let go of what no running row uses: a seat that was given away, or the least recently used adapter."""
        if lost := [seat for seat in self._stacks.seats if seat not in self._seats.values()]:
            self._keep_stacked([seat for seat in self._stacks.seats if seat not in lost])
            return True
        busy_names = {use.name for seat in self._seats.values() if seat.slot in self._busy_slots for use in seat.uses}
        if self._busy_slots and not self._placement.mixed:
            busy_names |= {use.name for use in self.active}
        stacked_names = {use.name for seat in self._stacks.seats for use in seat.uses}
        idle_names = [name for name in self._resident if name not in busy_names]
        idle_names += [use.name for uses in self._seats for use in uses if use.name not in busy_names]
        if not idle_names:
            return False
        self._forget(min(idle_names, key=lambda name: name in stacked_names))  # building stacks anew costs more
        return True

    def _forget(self, name: str) -> None:
        """Let go of an adapter that no running row uses, with its seats and its place in the model."""
        self._resident.pop(name, None)
        self._seats = OrderedDict(
            (uses, seat) for uses, seat in self._seats.items() if all(use.name != name for use in uses)
        )
        if not self._busy_slots and any(use.name == name for use in self.active):
            self._placement.put({})
            self.active = ()
        self._keep_stacked([seat for seat in self._stacks.seats if all(use.name != name for use in seat.uses)])

    def _keep_stacked(self, seats: Sequence[Seat]) -> None:
        """Build the stacks anew with fewer seats, and mount again what was mounted."""
        if tuple(seats) == self._stacks.seats:
            return
        pairs, active, was_mixed = self._placement.pairs, self.active, self._placement.mixed
        self._placement.put({})
        self._stack(seats)
        if not was_mixed:
            self._placement.put(pairs)
            self.active = active
        elif seats:
            self._mount_side_by_side(seats)
        else:
            self.active = ()

    def _stack(self, seats: Sequence[Seat]) -> None:
        """Build the stacks of exactly these seats; what was only a part of the old ones is let go."""
        self._stacks.build(seats, [resident.adapter for resident in self._resident.values()])
        parts = {id(pair) for seat in seats for pair in seat.pairs.values()}

        def is_whole(pairs: Mapping[str, LowRankPair]) -> bool:
            return all(not pair.stacked or id(pair) in parts for pair in pairs.values())

        self._resident = OrderedDict(
            (name, resident) for name, resident in self._resident.items() if is_whole(resident.adapter.pairs)
        )
        self._seats = OrderedDict((uses, seat) for uses, seat in self._seats.items() if is_whole(seat.pairs))

    def _combine(self, uses: Sequence[AdapterUse], adapters: Sequence[Adapter]) -> dict[str, LowRankPair]:
        return combine([(adapter, use.factor) for adapter, use in zip(adapters, uses, strict=True)])

    def _free_slot(self, busy_slots: Collection[int]) -> int:
        occupied_slots = {seat.slot for seat in self._seats.values()}
        free_slots = [slot for slot in range(1, self._max_seats + 1) if slot not in occupied_slots]
        if free_slots:
            return free_slots[0]
        return next(seat.slot for seat in self._seats.values() if seat.slot not in busy_slots)

    def _activate(
        self, uses: tuple[AdapterUse, ...], pairs: dict[str, LowRankPair], adapters: Sequence[Adapter]
    ) -> None:
        pairs_before, was_mixed = self._placement.pairs, self._placement.mixed
        try:
            mx.eval([(pair.a, pair.b) for pair in pairs.values()])
            self._placement.put(pairs)
            self._proofs.prove(adapters)
        except (KikiError, RuntimeError, ValueError) as error:
            if was_mixed:
                self._mount_side_by_side(self._stacks.seats)
            else:
                self._placement.put(pairs_before)
            if isinstance(error, KikiError):
                raise
            raise adapter_error("+".join(use.name for use in uses), str(error)) from error
        self.active = uses
        self.swaps += 1

    def _prove_alone(
        self, uses: tuple[AdapterUse, ...], pairs: dict[str, LowRankPair], adapters: Sequence[Adapter]
    ) -> None:
        """Prove a set that was not proven before; what was mounted is mounted again afterwards."""
        if self._proofs.are_known(adapters):
            return
        with self.borrow_model():
            self._activate(uses, pairs, adapters)

    def _mount_side_by_side(self, seats: Sequence[Seat]) -> None:
        self._placement.put({})
        if tuple(seats) != self._stacks.seats:
            self._stack(seats)
        self._placement.put_stacks()
        self.active = tuple(use for seat in seats for use in seat.uses)


def _pin_digests(uses: Sequence[AdapterUse], adapters: Sequence[Adapter]) -> tuple[AdapterUse, ...]:
    """The set with the digests of the files used."""
    return tuple(structs.replace(use, sha256=adapter.sha256) for use, adapter in zip(uses, adapters, strict=True))
