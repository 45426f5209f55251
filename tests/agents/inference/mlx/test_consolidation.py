"""Training steps, singular directions and the exchange, on a small model with all module kinds."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load

from agents.inference.adapters.bank import AdapterBank
from agents.inference.adapters.files import WEIGHTS
from agents.inference.adapters.stacks import BASE
from agents.inference.training.directions import frozen_weights, leading_directions
from agents.inference.training.exchange import discard, exchange, restore, stage, sweep
from agents.inference.training.steps import Training, TrainingExample, make_portable, step_flops
from schemas.errors import Refused, StageFailed
from schemas.findings import AdapterUse
from tests.agents.inference import hybrid

EXAMPLE = TrainingExample(tokens=(3, 9, 27, 81, 5, 25, 125), begins=3)
KINDS = ("linear_attn.in_proj_qkv", "self_attn.q_proj", "mlp.switch_mlp.up_proj", "mlp.shared_expert.up_proj")


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "quantized"])
def model(request: pytest.FixtureRequest) -> Any:
    return hybrid.build(quantized=request.param)


@pytest.fixture
def bank(model: Any, tmp_path: Path) -> Iterator[AdapterBank]:
    hybrid.write(tmp_path, model, "mine", kinds=KINDS, seed=1, rank=2, size=0.1)
    hybrid.write(tmp_path, model, "other", kinds=KINDS, seed=2, rank=2, size=0.1)
    adapter_bank = AdapterBank(model, tmp_path, budget=1024**2)
    yield adapter_bank
    adapter_bank.mount((BASE,))


def logits(bank: AdapterBank) -> mx.array:
    values: mx.array = bank.model(mx.array([EXAMPLE.tokens]))
    mx.eval(values)
    return values


def training(bank: AdapterBank, tmp_path: Path, *, rate: float = 0.01) -> Training:
    data = (tmp_path / "mine" / WEIGHTS).read_bytes()
    return Training(bank, "mine", data, scale=1.0, learning_rate=rate)


def train(bank: AdapterBank, tmp_path: Path, steps: int = 1) -> bytes:
    session = training(bank, tmp_path)
    for _ in range(steps):
        session.step(EXAMPLE)
    return session.dump()


def test_steps_learn_the_answer_and_leave_the_model_alone(bank: AdapterBank, tmp_path: Path) -> None:
    bank.activate((AdapterUse(name="other"),))
    before = logits(bank)
    session = training(bank, tmp_path)
    first = session.loss(EXAMPLE)
    assert session.step(EXAMPLE) == pytest.approx(first, rel=1e-4)
    for _ in range(9):
        session.step(EXAMPLE)
    assert session.loss(EXAMPLE) < 0.8 * first
    assert session.tokens == 10 * len(EXAMPLE.tokens)
    assert bool(mx.all(logits(bank) == before))
    assert [use.name for use in bank.active] == ["other"]


def test_every_module_kind_gets_a_gradient(bank: AdapterBank, tmp_path: Path) -> None:
    before, after = load((tmp_path / "mine" / WEIGHTS).read_bytes()), load(train(bank, tmp_path))
    assert before.keys() == after.keys()
    for path in before:
        assert not np.array_equal(before[path], after[path]), path


def test_weights_that_do_not_fit_are_refused(bank: AdapterBank) -> None:
    with pytest.raises(StageFailed, match="cannot be used"):
        Training(bank, "mine", b"nothing", scale=1.0, learning_rate=0.1)


def test_bfloat16_travels_as_float32(bank: AdapterBank, tmp_path: Path) -> None:
    data = (tmp_path / "mine" / WEIGHTS).read_bytes()
    assert make_portable(data) is data
    half = {name: mx.array(value).astype(mx.bfloat16) for name, value in load(data).items()}
    mx.save_safetensors(str(tmp_path / "half.safetensors"), half)
    again = load(make_portable((tmp_path / "half.safetensors").read_bytes()))
    for name, value in half.items():
        np.testing.assert_array_equal(again[name], np.array(value.astype(mx.float32)))


def test_steps_cost_what_the_model_weighs(bank: AdapterBank) -> None:
    assert step_flops(bank, 10) == 40.0 * bank.weight_count
    assert bank.weight_count > 100_000


def test_leading_directions_are_those_of_the_svd(bank: AdapterBank) -> None:
    for path in bank.check("mine").pairs:
        matrix = frozen_weights(bank.modules[path])
        left, right = leading_directions(matrix, 4)
        sizes = np.linalg.svd(matrix.astype(np.float64), compute_uv=False)
        core = np.swapaxes(left, -1, -2) @ matrix @ right
        np.testing.assert_allclose(np.linalg.svd(core, compute_uv=False), sizes[..., :4], rtol=1e-4)
        eye = np.broadcast_to(np.eye(4), (*matrix.shape[:-2], 4, 4))
        np.testing.assert_allclose(np.swapaxes(left, -1, -2) @ left, eye, atol=1e-6)
        np.testing.assert_allclose(np.swapaxes(right, -1, -2) @ right, eye, atol=1e-6)
        assert left.shape[-2] == bank.check("mine").pairs[path].a.shape[0] or left.ndim == 3


def test_an_exchange_is_made_once(bank: AdapterBank, tmp_path: Path) -> None:
    base = bank.load("mine").sha256
    staged = stage(tmp_path, "mine", train(bank, tmp_path))
    assert stage(tmp_path, "mine", (tmp_path / staged / WEIGHTS).read_bytes()) == staged
    new = bank.load(staged).sha256
    assert exchange(bank, "mine", staged, base, busy_slots=(), is_used=False) > 0.0
    assert bank.load("mine").sha256 == new == bank.check("mine").sha256
    assert exchange(bank, "mine", staged, base, busy_slots=(), is_used=False) == 0.0
    assert discard(tmp_path, staged)
    assert not discard(tmp_path, staged)
    assert {path.name for path in (tmp_path / "mine").iterdir()} == {"adapter_config.json", WEIGHTS}


def test_rows_keep_the_weights_they_began_with(bank: AdapterBank, tmp_path: Path) -> None:
    base = bank.load("mine").sha256
    old = bank.seat((AdapterUse(name="mine"),))
    staged = stage(tmp_path, "mine", train(bank, tmp_path))
    exchange(bank, "mine", staged, base, busy_slots={old.slot}, is_used=True)
    new = bank.seat((AdapterUse(name="mine"),), busy_slots={old.slot})
    assert (new.slot != old.slot, old.uses[0].sha256, new.uses[0].sha256 != base) == (True, base, True)
    assert new.uses[0].name == "mine"


def test_an_exchange_from_another_base_is_refused(bank: AdapterBank, tmp_path: Path) -> None:
    staged = stage(tmp_path, "mine", train(bank, tmp_path))
    before = bank.check("mine").sha256
    with pytest.raises(StageFailed) as caught:
        exchange(bank, "mine", staged, "0" * 64, busy_slots=(), is_used=False)
    assert (caught.value.code, caught.value.param) == ("invariant_broken", "base_sha256")
    assert bank.check("mine").sha256 == before


def test_an_adapter_too_large_to_stand_beside_its_successor_waits(
    model: Any, bank: AdapterBank, tmp_path: Path
) -> None:
    alone = AdapterBank(model, tmp_path, budget=1024**2, seats=0)
    staged, base = stage(tmp_path, "mine", train(bank, tmp_path)), alone.load("mine").sha256
    with pytest.raises(Refused, match="too large"):
        exchange(alone, "mine", staged, base, busy_slots=(), is_used=True)
    narrow = AdapterBank(model, tmp_path, budget=3 * alone.load("mine").nbytes // 2)
    with pytest.raises(Refused, match="too large"):
        exchange(narrow, "mine", staged, base, busy_slots={1}, is_used=True)
    exchange(alone, "mine", staged, base, busy_slots=(), is_used=False)
    assert alone.load("mine").sha256 != base


def test_an_exchange_is_put_back(bank: AdapterBank, tmp_path: Path) -> None:
    base = bank.load("mine").sha256
    staged = stage(tmp_path, "mine", train(bank, tmp_path))
    assert restore(bank, "mine", staged, base, busy_slots=()) == base, "nothing was exchanged yet"
    exchange(bank, "mine", staged, base, busy_slots=(), is_used=False)
    assert bank.check("mine").sha256 != base
    assert restore(bank, "mine", staged, base, busy_slots=()) == base
    assert bank.check("mine").sha256 == base == bank.load("mine").sha256
    assert restore(bank, "mine", staged, base, busy_slots=()) == base
    discard(tmp_path, staged)
    with pytest.raises(StageFailed, match="not the one to undo"):
        restore(bank, "mine", staged, "0" * 64, busy_slots=())


def test_a_failed_exchange_is_undone(bank: AdapterBank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = bank.load("mine").sha256
    staged = stage(tmp_path, "mine", train(bank, tmp_path))

    def refuse(name: str, **_: Any) -> None:
        raise StageFailed("no", code="adapter_failed")

    monkeypatch.setattr(bank, "prepare", refuse)
    with pytest.raises(StageFailed, match="no"):
        exchange(bank, "mine", staged, base, busy_slots=(), is_used=False)
    assert bank.check("mine").sha256 == base == bank.load("mine").sha256


def test_staged_adapters_are_swept_when_they_are_old(bank: AdapterBank, tmp_path: Path) -> None:
    staged = stage(tmp_path, "mine", train(bank, tmp_path))
    start = (tmp_path / staged).stat().st_mtime
    assert sweep(tmp_path, now=start + 60) == []
    assert sweep(tmp_path, now=start + 2 * 3600) == [staged]
    assert bank.registered_names == ("mine", "other")


@pytest.mark.parametrize("name", ["nobody", "../mine"])
def test_unregistered_adapters_are_not_staged(bank: AdapterBank, tmp_path: Path, name: str) -> None:
    with pytest.raises(StageFailed, match="only registered adapters"):
        stage(tmp_path, name, b"x")
    with pytest.raises(StageFailed, match="never staged"):
        discard(tmp_path, "mine")
