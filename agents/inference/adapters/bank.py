"""The bank of resident adapters: reads them once, keeps them under a byte budget, and puts them into the model.

The base weights are never touched. A changed module is a wrapper around the base module, made once; activating
swaps the wrapper's low-rank tensors. "No adapter" puts the base modules themselves back, so that the base's results are
the same bit for bit.

A set of adapters that shares a batch with others gets a seat, which is a slot in the stacks of
:mod:`agents.inference.adapters.mixed`. *Mounting* puts seats into the model: one seat *in place* (its pairs for all
rows), several *side by side* (the stacks). *Proving* an adapter checks, once for each digest, that it changes the
model's logits. All methods but :meth:`AdapterBank.warm` belong to the thread that
owns the model.
"""

import contextlib
import re
import time
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.tuner.lora import LoRAEmbedding, LoRALinear, LoRASwitchLinear
from prometheus_client import Histogram

from agents.inference.adapters import mixed as mixing
from agents.inference.adapters.files import Adapter, combine, digest, find_weights, read_adapter
from agents.inference.adapters.modules import ModulePlaces
from agents.inference.adapters.pairs import LowRankPair
from agents.inference.failures import adapter_error, missing_adapter_error
from bus import metrics
from schemas.errors import KikiError, SetupError
from schemas.findings import AdapterUse

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,127}")
SWAP_SECONDS = Histogram(
    "kiki_adapter_swap_seconds",
    "Seconds that it takes to put other adapters into the model",
    registry=metrics.REGISTRY,
    buckets=(0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1),
)
PROBE = (1, 2, 3, 5, 8)
"""Token ids whose logits show whether a fresh adapter changes anything."""


@dataclass(frozen=True)
class _Resident:
    adapter: Adapter
    stamp: tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Seat:
    """A set of adapters that rows refer to by ``slot``. Slot 0 belongs to the base, and to sets that never mix."""

    slot: int
    uses: tuple[AdapterUse, ...]
    pairs: dict[str, LowRankPair] = field(default_factory=dict, repr=False, compare=False)


BASE = Seat(slot=0, uses=())


class AdapterBank:
    """Adapters of one folder for one model. ``folder`` None: there are none; ``budget`` in bytes.

    ``seats``: how many sets of adapters, besides the base, may be mounted side by side.

    Raises:
        SetupError: the folder does not exist.
    """

    def __init__(
        self, model: Any, folder: Path | None, *, budget: int, dtype: Any | None = None, seats: int = 8
    ) -> None:
        if folder is not None and not folder.is_dir():
            raise SetupError(f"no adapters folder at {folder}: create it, or leave the setting out.", param="adapters")
        self._model, self._folder, self.budget, self._dtype = model, folder, budget, dtype
        self.places = ModulePlaces(model)
        self._base = self.places.base
        self._experts = [path for path, module in self._base.items() if isinstance(module, mixing.EXPERTS)]
        self._wrappers: dict[str, Any] = {}
        self.rows = mixing.Rows()
        self._max_seats = seats
        self._seats: OrderedDict[tuple[AdapterUse, ...], Seat] = OrderedDict()
        self._stacked_seats: tuple[Seat, ...] = ()
        self._stacked_paths: frozenset[str] = frozenset()
        self._mixed_wrappers: dict[str, Any] = {}
        self._mixed = False
        self._mounted_pairs: dict[str, LowRankPair] = {}
        self._resident: OrderedDict[str, _Resident] = OrderedDict()
        self._proven: set[str] = set()
        self._base_logits = self._probe_logits()
        self.active: tuple[AdapterUse, ...] = ()
        self.swaps = 0
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
        return self._folder

    @property
    def weight_count(self) -> int:
        """Numbers in the base's weights; quantised ones are counted unpacked."""
        modules = [module for module in self._base.values() if isinstance(module.get("weight"), mx.array)]
        return sum(int(module.weight.size) * (32 // module.bits if "scales" in module else 1) for module in modules)

    @property
    def resident_bytes(self) -> int:
        """Bytes of the adapters kept."""
        return sum(resident.adapter.nbytes for resident in self._resident.values())

    @property
    def resident(self) -> tuple[str, ...]:
        """Names of the adapters kept, the least recently used first."""
        return tuple(self._resident)

    def is_registered(self, name: str) -> bool:
        """Whether the folder holds an adapter of that name; a name is never a path."""
        if self._folder is None or _NAME.fullmatch(name) is None:
            return False
        return find_weights(self._folder / name) is not None

    def warm(self, names: Iterable[str]) -> None:
        """Read the files of registered adapters, so that loading them later reads no disk. Safe on any thread."""
        for name in names:
            if self._folder is not None and self.is_registered(name):
                with contextlib.suppress(KikiError, OSError):  # the load that follows reports the error
                    digest(self._weights_path(name))

    @property
    def registered_names(self) -> tuple[str, ...]:
        """Names of all adapters of the folder, sorted."""
        paths = self._folder.iterdir() if self._folder is not None else ()
        return tuple(sorted(path.name for path in paths if self.is_registered(path.name)))

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
        if self._folder is None or not self.is_registered(name):
            raise missing_adapter_error(name)
        return read_adapter(self._folder / name, self._base, dtype=self._dtype)

    def unload(self, name: str, *, busy_slots: Collection[int] = ()) -> bool:
        """Drop a resident adapter and its seats. Returns whether it was resident or had a seat.

        Raises:
            StageFailed: code ``adapter_failed``: rows of the batch use it.
        """
        seats = {key: seat for key, seat in self._seats.items() if any(use.name == name for use in key)}
        if any(seat.slot in busy_slots for seat in seats.values()):
            raise adapter_error(name, "requests are using it; unload it when they are done")
        for key in seats:
            del self._seats[key]
        if not busy_slots and any(use.name == name for use in self.active):
            self.mount((BASE,))
        return self._resident.pop(name, None) is not None or bool(seats)

    def load(self, name: str) -> Adapter:
        """Make the adapter resident and return it; it is read again if its file has changed.

        Raises:
            StageFailed: code ``adapter_failed``.
        """
        if self._folder is None or not self.is_registered(name):
            raise missing_adapter_error(name)
        folder = self._folder / name
        stamp = self._stamp(name)
        resident = self._resident.get(name)
        if resident is not None and resident.stamp == stamp:
            self._resident.move_to_end(name)
            return resident.adapter
        adapter = read_adapter(folder, self._base, dtype=self._dtype)
        if adapter.nbytes > self.budget:
            raise adapter_error(name, f"it has {adapter.nbytes} bytes and the budget is {self.budget}")
        self._resident[name] = _Resident(adapter, stamp)
        self._resident.move_to_end(name)
        while self.resident_bytes > self.budget:
            self._resident.popitem(last=False)
        return adapter

    def load_all(self, uses: Sequence[AdapterUse]) -> list[Adapter]:
        """Make the adapters of a set resident and return them.

        Raises:
            StageFailed: code ``adapter_failed``, also when a file has another digest than the one asked for.
        """
        adapters = [self.load(use.name) for use in uses]
        for use, adapter in zip(uses, adapters, strict=True):
            if use.sha256 and use.sha256 != adapter.sha256:
                raise adapter_error(use.name, f"its sha256 is {adapter.sha256}, but {use.sha256} was asked for")
        return adapters

    def renew(self, name: str, adapter: Adapter) -> None:
        """Replace the resident adapter of ``name`` by ``adapter``, whose weights its file now holds. Running rows keep
        their pairs."""
        self._resident[name] = _Resident(replace(adapter, name=name), self._stamp(name))
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
        if len(self._seats) < self._max_seats or any(seat.slot not in busy_slots for seat in self._seats.values()):
            self.seat((AdapterUse(name=name),), busy_slots=busy_slots)

    def place(self, pairs: dict[str, LowRankPair]) -> None:
        """Put these pairs into the model for all rows; within :meth:`borrow_model`."""
        self._place(pairs)

    @contextlib.contextmanager
    def borrow_model(self) -> Iterator[None]:
        """Let the caller place pairs, in training mode; at the end they are removed, and what was mounted before is
        mounted again."""
        pairs, active, was_mixed = self._mounted_pairs, self.active, self._mixed
        self._model.train()  # layers and kernels that have no gradient are avoided
        try:
            yield
        finally:
            self._model.eval()
            if was_mixed:
                self._mount_side_by_side(self._stacked_seats)
            else:
                self._place(pairs)
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
        if not uses:
            return BASE
        adapters = self.load_all(uses)
        pinned_uses = _pin_digests(uses, adapters)
        if pinned_uses not in self._seats:
            pairs = self._combine(uses, adapters)
            self._prove_alone(pinned_uses, pairs, adapters)
            if not self.mixable(uses):
                return Seat(slot=0, uses=pinned_uses, pairs=pairs)
            slot = self._free_slot(busy_slots)
            self._seats = OrderedDict((key, seat) for key, seat in self._seats.items() if seat.slot != slot)
            self._seats[pinned_uses] = Seat(slot=slot, uses=pinned_uses, pairs=pairs)
        self._seats.move_to_end(pinned_uses)
        return self._seats[pinned_uses]

    def mixable(self, uses: Sequence[AdapterUse]) -> bool:
        """Whether this set may share a batch with others: its files must fit in an equal share of the budget, and the
        model's expert layers must be of a known kind."""
        if self._folder is None or not uses:
            return True
        if not self._max_seats:
            return False
        size = sum(self._weights_path(use.name).stat().st_size for use in uses)
        return size <= self.budget // (self._max_seats + 1) and self._can_mix_switches

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
            if self._mixed or seat.uses != self.active:
                self._place(seat.pairs)
                self._mixed, self.active = False, seat.uses
                self.swaps += 1
            return
        all_seats = tuple(sorted((*self._seats.values(),), key=lambda seat: seat.slot))
        if not self._mixed or all_seats != self._stacked_seats:
            self._mount_side_by_side(all_seats)
            self.swaps += 1

    def _weights_path(self, name: str) -> Path:
        path = find_weights(self._folder / name) if self._folder is not None else None
        if path is None:
            raise adapter_error(name, "its files are gone")
        return path

    def _stamp(self, name: str) -> tuple[int, int]:
        status = self._weights_path(name).stat()
        return status.st_mtime_ns, status.st_size

    @property
    def _can_mix_switches(self) -> bool:
        switches = {
            path.rpartition(".")[0] for path, module in self._base.items() if isinstance(module, mixing.SWITCHES)
        }
        return switches <= set(self._experts)

    def _combine(self, uses: Sequence[AdapterUse], adapters: Sequence[Adapter]) -> dict[str, LowRankPair]:
        return combine([(adapter, use.weight) for adapter, use in zip(adapters, uses, strict=True)])

    def _free_slot(self, busy_slots: Collection[int]) -> int:
        occupied_slots = {seat.slot for seat in self._seats.values()}
        free_slots = [slot for slot in range(1, self._max_seats + 1) if slot not in occupied_slots]
        if free_slots:
            return free_slots[0]
        return next(seat.slot for seat in self._seats.values() if seat.slot not in busy_slots)

    def _activate(
        self, uses: tuple[AdapterUse, ...], pairs: dict[str, LowRankPair], adapters: Sequence[Adapter]
    ) -> None:
        pairs_before, was_mixed = self._mounted_pairs, self._mixed
        try:
            mx.eval([(pair.a, pair.b) for pair in pairs.values()])
            self._place(pairs)
            self._prove(adapters)
        except (KikiError, RuntimeError, ValueError) as error:
            if was_mixed:
                self._mount_side_by_side(self._stacked_seats)
            else:
                self._place(pairs_before)
            if isinstance(error, KikiError):
                raise
            raise adapter_error("+".join(use.name for use in uses), str(error)) from error
        self.active, self._mixed = uses, False
        self.swaps += 1

    def _prove_alone(
        self, uses: tuple[AdapterUse, ...], pairs: dict[str, LowRankPair], adapters: Sequence[Adapter]
    ) -> None:
        """Prove a set that was not proven before; what was mounted is mounted again afterwards."""
        if {adapter.sha256 for adapter in adapters} <= self._proven:
            return
        with self.borrow_model():
            self._activate(uses, pairs, adapters)

    def _mount_side_by_side(self, seats: tuple[Seat, ...]) -> None:
        if seats != self._stacked_seats:
            stacks = mixing.stack_pairs({seat.slot: seat.pairs for seat in seats})
            mx.eval(list(stacks.values()))
            for path, (a, b) in stacks.items():
                if path not in self._mixed_wrappers:
                    self._mixed_wrappers[path] = mixing.wrap(self._base[path], self.rows)
                self._mixed_wrappers[path].hold(a, b)
            self._stacked_paths = frozenset(stacks)
        self._place({})
        for path in self._stacked_paths:
            self.places.put(path, self._mixed_wrappers[path])
        for path in self._experts:
            self.places.put(path, self._sorter(path))
        self._stacked_seats, self._mixed, self.active = seats, True, tuple(use for seat in seats for use in seat.uses)

    def _sorter(self, path: str) -> Any:
        if path not in self._mixed_wrappers:
            self._mixed_wrappers[path] = mixing.MixedExperts(self._base[path], self.rows)
        return self._mixed_wrappers[path]

    def _prove(self, adapters: Sequence[Adapter]) -> None:
        """Check for adapters not proven before that the logits are finite and differ from the base's."""
        fresh = {adapter.sha256 for adapter in adapters} - self._proven
        if not fresh:
            return
        logits = self._probe_logits()
        if bool(mx.all(logits == self._base_logits)) or not bool(mx.all(mx.isfinite(logits))):
            raise adapter_error(
                "+".join(adapter.name for adapter in adapters), "the model's logits do not change, or overflow"
            )
        self._proven |= fresh

    def _probe_logits(self) -> mx.array:
        logits: mx.array = self._model(mx.array([PROBE]))[0, -1]
        mx.eval(logits)
        return logits

    def _place(self, pairs: dict[str, LowRankPair]) -> None:
        """Put these pairs in place for all rows, and take the stacks out."""
        for path in self._stacked_paths | set(self._experts) if self._mixed else ():
            self.places.put(path, self._base[path])
        self._mixed = False
        paths_to_restore = self._mounted_pairs.keys() - pairs.keys()
        self._mounted_pairs = (
            self._mounted_pairs | pairs
        )  # before the first change, so that a failed one is undone whole
        for path in paths_to_restore:
            self.places.put(path, self._base[path])
        for path, pair in pairs.items():
            wrapper = self._wrapper(path)
            wrapper.lora_a, wrapper.lora_b = pair.a, pair.b
            self.places.put(path, wrapper)
        self._mounted_pairs = pairs

    def _wrapper(self, path: str) -> Any:
        if path not in self._wrappers:
            self._wrappers[path] = _wrap(self._base[path])
        return self._wrappers[path]


def _pin_digests(uses: Sequence[AdapterUse], adapters: Sequence[Adapter]) -> tuple[AdapterUse, ...]:
    """The set with the digests of the files used."""
    return tuple(
        AdapterUse(name=use.name, weight=use.weight, sha256=adapter.sha256)
        for use, adapter in zip(uses, adapters, strict=True)
    )


def _wrap(base: Any) -> Any:
    kinds = ((mixing.SWITCHES, LoRASwitchLinear), (mixing.EMBEDDINGS, LoRAEmbedding))
    kind = next((wrapper for bases, wrapper in kinds if isinstance(base, bases)), LoRALinear)
    wrapper = kind.from_base(base, r=1, dropout=0.0, scale=1.0)
    wrapper.eval()
    return wrapper
