"""The verdict on a new adapter, for each way in which it can fail."""

from pathlib import Path

import numpy as np
import pytest

from agents.shared.adapters.folders import STAGED, survey_adapters
from agents.shared.adapters.gate import MAX_WIN_DROP, MIN_ANGLE, GateVerdict, judge_adapter, judge_angle
from agents.shared.adapters.low_rank import Factors
from agents.shared.adapters.reports import describe_gate
from tests.agents.shared.adapters.written import random_changes, write_mlx, write_peft

COPIED = "layers.0.linear_attn.in_proj_qkv"


@pytest.fixture
def priors(tmp_path: Path) -> Path:
    """Two adapters that are there."""
    for seed, name in ((1, "stack-01-rust"), (2, "sql")):
        write_mlx(tmp_path / "there" / name, random_changes(seed))
    return tmp_path / "there"


@pytest.fixture
def copying(tmp_path: Path) -> Path:
    """A new adapter that has one projection of the expert on Rust."""
    return write_mlx(tmp_path / "shell", random_changes(3) | {COPIED: random_changes(1)[COPIED]})


@pytest.mark.parametrize(
    ("angle", "drop", "verdict"),
    [
        (MIN_ANGLE, None, GateVerdict.PASS),
        (MIN_ANGLE, 1.0, GateVerdict.PASS),
        (MIN_ANGLE - 0.01, None, GateVerdict.ANGLE),
        (0.0, MAX_WIN_DROP, GateVerdict.PASS),
        (0.0, -0.5, GateVerdict.PASS),
        (0.0, MAX_WIN_DROP + 0.001, GateVerdict.WIN_RATE),
        (180.0, None, GateVerdict.PASS),
    ],
)
def test_the_verdict_of_an_angle_and_a_drop(angle: float, drop: float | None, verdict: GateVerdict) -> None:
    assert judge_angle(angle, drop) is verdict


def test_the_numbers_are_the_exit_codes() -> None:
    assert [
        int(verdict) for verdict in (GateVerdict.PASS, GateVerdict.ANGLE, GateVerdict.WIN_RATE, GateVerdict.HEALTH)
    ] == [0, 1, 2, 3]


def test_an_adapter_of_its_own_direction_passes_and_nothing_is_measured(tmp_path: Path, priors: Path) -> None:
    new = write_peft(tmp_path / "shell", random_changes(3))
    report = judge_adapter(new, survey_adapters(priors).paths, measure_drop=lambda _: pytest.fail("measured"))
    assert report.verdict is GateVerdict.PASS
    assert [(prior.name, prior.drop) for prior in report.priors] == [("rust", None), ("sql", None)]


def test_a_copied_projection_fails_by_its_angle(copying: Path, priors: Path) -> None:
    report = judge_adapter(copying, survey_adapters(priors).paths)
    assert report.verdict is GateVerdict.ANGLE
    assert [(prior.name, prior.verdict) for prior in report.priors] == [
        ("rust", GateVerdict.ANGLE),
        ("sql", GateVerdict.PASS),
    ]
    described = describe_gate(report)
    assert (described["verdict"], described["exit_code"]) == ("angle", 1)
    assert described["priors"][0]["smallest"] == {"degrees": pytest.approx(0.0, abs=0.1), "where": COPIED}


@pytest.mark.parametrize(("drop", "verdict"), [(0.02, GateVerdict.PASS), (0.5, GateVerdict.WIN_RATE)])
def test_the_win_rate_decides_where_the_angle_is_too_small(
    copying: Path, priors: Path, drop: float, verdict: GateVerdict
) -> None:
    measured: list[Path] = []

    def measure_drop(prior: Path) -> float:
        measured.append(prior)
        return drop

    report = judge_adapter(copying, survey_adapters(priors).paths, measure_drop=measure_drop)
    assert report.verdict is verdict
    assert measured == [priors / "stack-01-rust"]


def test_an_unhealthy_adapter_is_compared_with_nothing(tmp_path: Path, priors: Path) -> None:
    changes = random_changes(3)
    changes[COPIED] = Factors(changes[COPIED].left, np.zeros_like(changes[COPIED].right))
    report = judge_adapter(write_mlx(tmp_path / "shell", changes), survey_adapters(priors).paths)
    assert (report.verdict, report.priors) == (GateVerdict.HEALTH, ())
    assert describe_gate(report)["health"]["faults"][0]["module"] == COPIED


def test_a_prior_of_the_same_domain_is_replaced_not_judged(tmp_path: Path, priors: Path) -> None:
    again = write_mlx(tmp_path / "stack-02-rust", random_changes(1))
    report = judge_adapter(again, survey_adapters(priors).paths)
    assert report.verdict is GateVerdict.PASS
    assert [prior.name for prior in report.priors] == ["sql"]
    assert "the same domain, rust" in report.skipped[0].reason


def test_an_adapter_among_the_priors_is_not_compared_with_itself_nor_with_what_is_staged(priors: Path) -> None:
    write_mlx(priors / f"sql{STAGED}0123456789ab", random_changes(2))
    report = judge_adapter(priors / "sql", survey_adapters(priors).paths)
    assert (report.verdict, [prior.name for prior in report.priors], report.skipped) == (GateVerdict.PASS, ["rust"], ())


def test_a_prior_that_cannot_be_served_is_named_and_skipped(tmp_path: Path, priors: Path) -> None:
    (priors / "sql" / "adapters.safetensors").write_bytes(b"cut")
    report = judge_adapter(write_mlx(tmp_path / "shell", random_changes(3)), survey_adapters(priors).paths)
    assert [prior.name for prior in report.priors] == ["rust"]
    assert report.skipped[0].path == priors / "sql"
    assert "cannot be read" in report.skipped[0].reason


def test_the_first_adapter_of_all_is_judged_by_its_health(tmp_path: Path) -> None:
    assert judge_adapter(write_mlx(tmp_path / "rust", random_changes(1)), {}).verdict is GateVerdict.PASS
