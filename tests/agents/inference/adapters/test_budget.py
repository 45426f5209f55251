"""The byte budget of the bank: what is counted is what MLX holds, and running rows keep what they use."""

import gc
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest

from agents.inference.adapters.bank import AdapterBank
from agents.inference.adapters.files import Extent, measure_extents
from agents.inference.adapters.stacks import BASE, Seat, count_stacked, measure_set
from schemas.findings import AdapterUse
from tests.agents.inference import hybrid

NAMES = tuple(f"a{number}" for number in range(8))
OPTIONS: dict[str, Any] = {"kinds": hybrid.KINDS, "rank": 4, "size": 0.1}
ROOM = 20_000
"""Bytes by which MLX may hold more than is counted: probes, indices, alignment."""


@pytest.fixture
def model() -> Any:
    return hybrid.build(quantized=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, path = hybrid.build(quantized=True), tmp_path_factory.mktemp("budget")
    for seed, name in enumerate(NAMES):
        hybrid.write(path, model, name, seed=seed, dtype=mx.bfloat16, **OPTIONS)
    hybrid.write(path, model, "full", seed=90, dtype=mx.float32, **OPTIONS)
    hybrid.write(path, model, "wide", seed=91, dtype=mx.bfloat16, **(OPTIONS | {"rank": 9}))
    return path


@pytest.fixture
def size(model: Any, folder: Path) -> int:
    return AdapterBank(model, folder, budget=2**30).check("a0").nbytes


def use(name: str) -> tuple[AdapterUse, ...]:
    return (AdapterUse(name=name),)


def held() -> int:
    gc.collect()
    mx.clear_cache()
    return int(mx.get_active_memory())


def test_counted_bytes_are_those_that_mlx_holds(model: Any, folder: Path, size: int) -> None:
    bank = AdapterBank(model, folder, budget=4 * size)
    bank.seat(use("a0"))
    bank.unload("a0")
    before = held()

    def check() -> None:
        assert abs(held() - before - bank.resident_bytes) < ROOM
        assert bank.resident_bytes <= bank.budget

    for name in NAMES[:6]:
        bank.mount((bank.seat(use(name)),))
        check()
    bank.mount([bank.seat(use(name)) for name in NAMES[:4]])
    check()
    assert bank.resident_bytes == 4 * size, "four side by side are in memory once"
    for name in NAMES[4:]:
        bank.mount((bank.seat(use(name)),))
        check()
    for name in (*NAMES, "full", "wide"):
        bank.unload(name)
    bank.mount((BASE,))
    assert abs(held() - before) < ROOM
    assert bank.resident_bytes == 0


def test_adapters_of_running_rows_stay(model: Any, folder: Path, size: int) -> None:
    bank = AdapterBank(model, folder, budget=2 * size)
    seats = [bank.seat(use("a0"))]
    seats.append(bank.seat(use("a1"), busy_slots={seats[0].slot}))
    bank.mount(seats)
    bank.note_busy({seat.slot for seat in seats})
    adapter = bank.load("a2")
    assert adapter.name == "a2"
    assert set(bank.resident) == {"a0", "a1"}, "it was read and verified, and there was no room to keep it"
    bank.note_busy({seats[1].slot})
    bank.load("a2")
    assert set(bank.resident) == {"a1", "a2"}
    assert bank.resident_bytes <= bank.budget


def test_a_prefetch_reads_nothing_that_cannot_be_kept(
    model: Any, folder: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank = AdapterBank(model, folder, budget=2 * size + ROOM)
    seats = [bank.seat(use("a0"))]
    seats.append(bank.seat(use("a1"), busy_slots={seats[0].slot}))
    bank.note_busy({seat.slot for seat in seats})
    bank.require(use("a1"))
    monkeypatch.setattr(bank, "check", lambda name: pytest.fail(f"{name} is read"))
    bank.prefetch("a2")
    bank.require(use("a0"))
    assert bank.resident == ("a0", "a1")
    assert bank.counted_bytes == 2 * size


def test_a_seat_that_leaves_the_stacks_leaves_the_others_as_they_were(model: Any, folder: Path, size: int) -> None:
    bank, tokens = AdapterBank(model, folder, budget=4 * size), mx.array([[1, 2, 3, 4]])
    seats: list[Seat] = []
    for name in NAMES[:4]:
        seats.append(bank.seat(use(name), busy_slots={seat.slot for seat in seats}))
    bank.mount(seats[2:3])
    alone = model(tokens)
    mx.eval(alone)
    bank.mount(seats)
    bank.unload("a1", busy_slots={seats[2].slot})
    bank.mount(seats[2:3])
    assert mx.allclose(model(tokens), alone, atol=1e-4)
    assert bank.resident_bytes == 3 * size


def test_numbers_stay_of_the_type_of_the_file(model: Any, folder: Path, size: int) -> None:
    bank = AdapterBank(model, folder, budget=64 * size)
    half, full = bank.load("a0"), bank.load("full")
    assert {pair.a.dtype for pair in half.pairs.values()} == {mx.bfloat16}
    assert {pair.b.dtype for pair in full.pairs.values()} == {mx.float32}
    assert full.nbytes == 2 * half.nbytes == 2 * size
    bank.mount([bank.seat(use("a0")), bank.seat(use("a1"))])
    assert bank.resident_bytes == 4 * size
    assert {pair.a.dtype for pair in half.pairs.values()} == {mx.bfloat16}


def test_the_stacks_are_measured_before_they_are_built(model: Any, folder: Path, size: int) -> None:
    bank = AdapterBank(model, folder, budget=64 * size)
    sets = [use("a0"), use("wide"), (AdapterUse(name="a1", weight=0.5), AdapterUse(name="a2", weight=0.5))]
    extents = [measure_set(bank.registration, uses) for uses in sets]
    bank.mount([bank.seat(uses) for uses in sets])
    assert bank._stacks.nbytes == count_stacked(extents)


def test_extents_are_read_from_the_header(folder: Path, model: Any) -> None:
    extents = measure_extents(folder / "wide" / "adapters.safetensors")
    pairs = AdapterBank(model, folder, budget=2**30).check("wide").pairs
    assert extents == {path: Extent(rank=9, bytes=pair.nbytes // 9) for path, pair in pairs.items()}


@pytest.mark.parametrize(("count", "fits"), [(1, True), (4, True), (5, False)])
def test_as_many_sets_mix_as_fit_in_the_budget(model: Any, folder: Path, size: int, count: int, fits: bool) -> None:
    bank = AdapterBank(model, folder, budget=4 * size)
    assert bank.fit_together([(), *(use(name) for name in NAMES[:count])]) is fits


def test_without_seats_no_set_mixes(model: Any, folder: Path, size: int) -> None:
    bank = AdapterBank(model, folder, budget=4 * size, seats=0)
    assert not bank.mixable(use("a0"))
    assert bank.mixable(())
    assert bank.seat(use("a0")).slot == 0
