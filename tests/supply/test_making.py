"""What make runs, and what it writes and asks of the lock files."""

import itertools
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

from tests.supply.locking import LOCKS, ROOT, read_pins

MAKE = ["make", "-C", str(ROOT), "-o", "dev", f"BIN={Path(sys.executable).parent}"]
"""make, with this environment in the place of the one that it would build."""


def test_the_bill_of_materials_has_each_pin_with_its_hashes(tmp_path: Path) -> None:
    bill_file = tmp_path / "out" / "sbom.json"
    subprocess.run([*MAKE, "sbom", f"SBOM={bill_file}"], check=True, capture_output=True)
    bill = json.loads(bill_file.read_text())
    assert (bill["bomFormat"], bill["metadata"]["component"]["name"]) == ("CycloneDX", "micro-kiki")
    runtime, source, torch = (read_pins(LOCKS / name) for name in ("runtime.txt", "source.txt", "torch.txt"))
    runtime |= source
    versions = {component["purl"]: component for component in bill["components"]}
    for pins in (runtime, torch):
        for name, pin in pins.items():
            (version,) = pin.specifier
            (component,) = (part for purl, part in versions.items() if purl == f"pkg:pypi/{name}@{version.version}")
            hashes = [item for place in component["externalReferences"] for item in place.get("hashes", ())]
            assert bool(hashes) == (pins is runtime)
    assert len(bill["components"]) == len(runtime) + len(torch)


def test_the_audit_is_strict_and_reads_all_that_is_locked() -> None:
    plan = subprocess.run([*MAKE, "-n", "audit"], check=True, capture_output=True, text=True).stdout
    assert "pip-audit --strict" in plan
    assert all(f"-r deploy/requirements/{name}" in plan for name in ("dev.txt", "source.txt", "torch.txt"))
    assert "make -o dev audit" in (ROOT / ".github" / "workflows" / "supply.yml").read_text()


def list_commands(target: str) -> str:
    """What make would run for a target."""
    return subprocess.run([*MAKE, "-n", target], check=True, capture_output=True, text=True).stdout


def test_the_quick_check_leaves_out_what_takes_long_to_have() -> None:
    plan = list_commands("check")
    assert all(f"/{program}" in plan for program in ("ruff check", "lint-imports", "mypy"))
    (expression,) = re.findall(r'pytest -q -m "not \((.*)\)"', plan)
    left_out = set(expression.split(" or "))
    assert {"broker", "model", "soak"} <= left_out
    markers = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]["ini_options"]["markers"]
    assert left_out <= {marker.partition(":")[0] for marker in markers}


def test_coverage_counts_branches_of_children_and_fails_below_ninety() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["coverage"]
    assert (settings["run"]["branch"], settings["run"]["parallel"], settings["report"]["fail_under"]) == (
        True,
        True,
        90,
    )
    assert "subprocess" in settings["run"]["patch"]
    steps = re.findall(r"bin/coverage (\w+)", list_commands("coverage"))
    assert [step for step, _ in itertools.groupby(steps)] == ["erase", "run", "combine", "report"]


def test_every_hook_before_a_commit_runs_what_is_installed() -> None:
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    for hook in repository["hooks"]:
        program = hook["entry"].split()[0]
        assert hook["language"] == "system"
        assert program.startswith(".venv/bin/")
        assert (Path(sys.executable).parent / Path(program).name).exists(), program
