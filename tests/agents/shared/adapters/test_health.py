"""What an adapter on disk is refused for: each rule, each with its module and its mend."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agents.shared.adapters.files import AdapterFile
from agents.shared.adapters.health import HealthReport, check_health
from agents.shared.adapters.low_rank import Factors
from agents.shared.adapters.rules import RULES, ModuleShape
from tests.agents.shared.adapters.written import (
    EXPERTS,
    KINDS,
    LAYERS,
    RANK,
    random_changes,
    write_mlx,
    write_peft,
    write_tensors,
)

MODULE, SWITCH = "layers.1.mlp.gate", "layers.2.mlp.switch_mlp.up_proj"
BASE = {
    f"layers.{layer}.{kind}": ModuleShape(inputs, outputs, EXPERTS if ".switch_mlp." in kind else 0)
    for layer in range(LAYERS)
    for kind, (inputs, outputs) in KINDS.items()
}


def faults(report: HealthReport) -> list[tuple[str, str]]:
    for fault in report.faults:
        assert fault.rule in RULES
        assert fault.mend
    return [(fault.rule, fault.module) for fault in report.faults]


@pytest.mark.parametrize("dtype", ["F32", "F16", "BF16"])
@pytest.mark.parametrize("write", [write_mlx, write_peft])
def test_a_trained_adapter_is_healthy(tmp_path: Path, write: Any, dtype: str) -> None:
    report = check_health(write(tmp_path / "stack-07-rust", random_changes(1), dtype=dtype), base=BASE)
    assert report.is_healthy
    assert (report.name, report.modules, report.ranks, report.dtype) == ("rust", len(BASE), (RANK, RANK), dtype)
    assert report.nbytes > 0
    assert len(report.sha256) == 64


def spoil(module: str, side: str, value: float, *, everywhere: bool) -> dict[str, Factors]:
    changes = random_changes(1)
    part = getattr(changes[module], side).copy()
    if everywhere:
        part[...] = value
    else:
        part.reshape(-1)[-1] = value
    changes[module] = Factors(**{"left": changes[module].left, "right": changes[module].right, side: part})
    return changes


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("module", [MODULE, SWITCH])
def test_one_number_that_is_not_finite_is_found(tmp_path: Path, module: str, side: str, value: float) -> None:
    changes = spoil(module, side, value, everywhere=False)
    for dtype in ("F32", "BF16"):
        report = check_health(write_mlx(tmp_path / dtype, changes, dtype=dtype), base=BASE)
        assert faults(report) == [("finite", module)]


@pytest.mark.parametrize(("module", "side"), [(MODULE, "right"), (SWITCH, "left")])
def test_a_lora_b_of_zeros_is_found(tmp_path: Path, module: str, side: str) -> None:
    report = check_health(write_mlx(tmp_path / "x", spoil(module, side, 0.0, everywhere=True)))
    assert faults(report) == [("alive", module)]
    assert report.faults[0].message == (
        f"{module} has a lora_b of all zeros, so it changes nothing: "
        "train the module, or leave it out of the recipe's keys"
    )


def test_every_fault_is_listed(tmp_path: Path) -> None:
    spoilt = {module: Factors(part.left * np.nan, part.right) for module, part in random_changes(1).items()}
    assert [fault.module for fault in check_health(write_mlx(tmp_path / "x", spoilt)).faults] == sorted(spoilt)


@pytest.mark.parametrize(
    ("a", "b"),
    [((48, 4), (5, 8)), ((48,), (4, 8)), ((4, 48, 4), (4, 8)), ((2, 4, 48), (2, 8, 5)), ((2, 4, 48), (3, 8, 4)),
     ((48, 0), (0, 8))],
)  # fmt: skip
def test_shapes_that_are_no_pair_are_found(tmp_path: Path, a: tuple[int, ...], b: tuple[int, ...]) -> None:
    folder = write_mlx(tmp_path / "x", {})
    tensors = {f"model.{MODULE}.lora_a": np.ones(a), f"model.{MODULE}.lora_b": np.ones(b)}
    write_tensors(folder / "adapters.safetensors", tensors)
    report = check_health(folder)
    assert faults(report) == [("shapes", MODULE)]
    assert f"{a} and {b}" in report.faults[0].reason


def test_shapes_are_held_against_the_base(tmp_path: Path) -> None:
    folder = write_mlx(tmp_path / "x", random_changes(1))
    assert check_health(folder).is_healthy
    wider = BASE | {MODULE: ModuleShape(48, 9), SWITCH: ModuleShape(48, 24, EXPERTS + 1)}
    report = check_health(folder, base=wider)
    assert faults(report) == [("shapes", MODULE), ("shapes", SWITCH)]
    assert "(48, 16) and (16, 9) would" in report.faults[0].reason
    without = {module: shape for module, shape in BASE.items() if module != MODULE}
    report = check_health(folder, base=without)
    assert faults(report) == [("shapes", MODULE)]
    assert "not a module of this model" in report.faults[0].reason


def test_a_folder_that_cannot_be_read_is_a_fault_of_format(tmp_path: Path) -> None:
    cut = write_mlx(tmp_path / "cut", random_changes(1))
    weights = cut / "adapters.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    (tmp_path / "empty").mkdir()
    old = tmp_path / "stack-03-rust"
    old.mkdir()
    write_tensors(old / "adapters.safetensors", {"layers.0.q_moe_lora.experts.0.lora_a": np.ones((2, 2))})
    (old / "stack_meta.json").write_text(json.dumps({"domain": "rust"}))
    for folder, why in ((cut, "cannot be read"), (tmp_path / "empty", "has no adapter_config.json"), (old, "MoE-LoRA")):
        report = check_health(folder)
        assert faults(report) == [("format", "")]
        assert why in report.faults[0].message


def test_the_modules_are_read_only_once_they_are_paired(tmp_path: Path) -> None:
    folder = write_mlx(tmp_path / "x", random_changes(1))
    seen: list[int] = []
    check_health(folder, on_advance=lambda: seen.append(1))
    assert len(seen) == len(AdapterFile(folder).modules)
