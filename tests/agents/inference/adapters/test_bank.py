"""The bank on the real model: on, off, side by side, and what happens when one is bad."""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest

from agents.inference.adapters.bank import SWAP_SECONDS, AdapterBank
from agents.inference.adapters.stacks import BASE
from agents.inference.mlx.device import limits
from schemas.errors import SetupError, StageFailed
from schemas.findings import AdapterUse

BUDGET = 64 * 1024**2
ONE, TWO = AdapterUse(name="one"), AdapterUse(name="two")


@pytest.fixture
def model(loaded: Any) -> Any:
    return loaded.model


@pytest.fixture
def bank(model: Any, adapters_folder: Path) -> Iterator[AdapterBank]:
    adapter_bank = AdapterBank(model, adapters_folder, budget=BUDGET)
    yield adapter_bank
    adapter_bank.activate(())


def logits(model: Any) -> np.ndarray[Any, Any]:
    return np.array(model(mx.array([[1, 9690, 198, 2683]]))[0])


def test_deactivation_restores_the_base_bit_for_bit(bank: AdapterBank, model: Any) -> None:
    base = logits(model)
    bank.activate((ONE,))
    with_one = logits(model)
    bank.activate((TWO,))
    with_two = logits(model)
    bank.activate(())
    assert np.array_equal(logits(model), base)
    assert not np.allclose(with_one, base)
    assert not np.allclose(with_one, with_two)
    assert bank.active == ()


def test_the_seconds_of_each_swap_are_counted(bank: AdapterBank) -> None:
    def count() -> float:
        (family,) = SWAP_SECONDS.collect()
        return next(sample.value for sample in family.samples if sample.name.endswith("_count"))

    seat, before = bank.seat((ONE,)), count()
    for seats in ((seat,), (seat,), (BASE,), (BASE, seat), (BASE, seat)):
        bank.mount(seats)
    assert count() - before == 3, "one in place, the base again, and both side by side"
    assert bank.last_swap_ms > 0


def test_an_adapter_is_the_same_after_another(bank: AdapterBank, model: Any) -> None:
    bank.activate((ONE,))
    first = logits(model)
    bank.activate((TWO,))
    bank.activate((ONE,))
    assert np.array_equal(logits(model), first)


def test_weighted_adapters_equal_the_merged_weights(bank: AdapterBank, model: Any, adapters_folder: Path) -> None:
    halves = (AdapterUse(name="one", weight=0.75, scale=0.5), AdapterUse(name="two", weight=0.25, scale=2.0))
    bank.activate(halves)
    together = logits(model)
    seat = bank.seat(halves)
    bank.mount((seat,))
    assert [use.scale for use in seat.uses] == [0.5, 2.0]
    np.testing.assert_array_equal(logits(model), together)
    bank.activate(())
    layers = [layer.self_attn for layer in model.model.layers]
    originals = [(layer.q_proj.weight, layer.v_proj.weight) for layer in layers]
    for use in halves:
        tensors: Any = mx.load(str(adapters_folder / use.name / "adapters.safetensors"))
        for number, layer in enumerate(layers):
            for leaf in ("q_proj", "v_proj"):
                path = f"model.layers.{number}.self_attn.{leaf}"
                layer[leaf].weight += use.weight * use.scale * (tensors[f"{path}.lora_a"] @ tensors[f"{path}.lora_b"]).T
    merged = logits(model)
    for layer, (q, v) in zip(layers, originals, strict=True):
        layer.q_proj.weight, layer.v_proj.weight = q, v
    np.testing.assert_allclose(together, merged, rtol=1e-2, atol=1e-2)


def test_result_carries_the_digest_of_the_file(bank: AdapterBank, adapters_folder: Path) -> None:
    (use,) = bank.activate((ONE,))
    assert use.sha256 == hashlib.sha256((adapters_folder / "one" / "adapters.safetensors").read_bytes()).hexdigest()


def test_another_digest_than_asked_for_is_refused(bank: AdapterBank) -> None:
    with pytest.raises(StageFailed, match="was asked for"):
        bank.activate((AdapterUse(name="one", sha256="0" * 64),))


@pytest.mark.parametrize("before", [(), (ONE,)])
def test_failed_activation_leaves_the_active_adapters(
    bank: AdapterBank, model: Any, before: tuple[AdapterUse, ...]
) -> None:
    active = bank.activate(before)
    expected = logits(model)
    with pytest.raises(StageFailed, match="all zeros"):
        bank.activate((TWO, AdapterUse(name="dead")))
    assert np.array_equal(logits(model), expected)
    assert bank.active == active


def test_adapter_that_overflows_is_rolled_back(model: Any, write_adapter: Callable[..., Path], tmp_path: Path) -> None:
    write_adapter(tmp_path, "huge", size=1e30)
    base, bank = logits(model), AdapterBank(model, tmp_path, budget=BUDGET)
    with pytest.raises(StageFailed, match="overflow"):
        bank.activate((AdapterUse(name="huge"),))
    assert np.array_equal(logits(model), base)


def test_least_recently_used_leaves_first(model: Any, adapters_folder: Path) -> None:
    size = AdapterBank(model, adapters_folder, budget=BUDGET).load("one").nbytes
    bank = AdapterBank(model, adapters_folder, budget=size)
    bank.load("one")
    bank.load("two")
    assert bank.resident == ("two",)
    assert bank.resident_bytes == size
    with pytest.raises(StageFailed, match="the budget is"):
        AdapterBank(model, adapters_folder, budget=size - 1).load("one")


def test_resident_adapter_is_not_read_again_until_its_file_changes(
    model: Any, adapters_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copies"
    shutil.copytree(adapters_folder, folder)
    bank = AdapterBank(model, folder, budget=BUDGET)
    first = bank.load("one")
    assert bank.load("one") is first
    (folder / "one" / "adapters.safetensors").write_bytes((folder / "two" / "adapters.safetensors").read_bytes())
    assert bank.load("one").sha256 != first.sha256


@pytest.mark.parametrize("name", ["three", "../one", "", ".", "one/../one"])
def test_unregistered_names_are_refused(bank: AdapterBank, name: str) -> None:
    assert not bank.is_registered(name)
    with pytest.raises(StageFailed, match="not registered"):
        bank.load(name)


def test_missing_folder_is_one_line(model: Any, tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"no adapters folder at .*: create it") as caught:
        AdapterBank(model, tmp_path / "none", budget=1)
    assert "\n" not in caught.value.message


def test_files_are_read_beforehand_and_their_errors_raised_at_use(
    bank: AdapterBank, adapters_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bank.warm(["one", "dead", "nobody", "../one"])
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("the file is read again"))
    assert len(bank.load("one").sha256) == 64
    with pytest.raises(StageFailed, match="all zeros"):
        bank.load("dead")


def test_limits_of_a_device_follow_its_memory() -> None:
    assert limits(512 * 1024**3) == (460 * 1024**3, 32 * 1024**3)
