"""The wheels of the runtime and of the client hold every file that they need, and say that they are typed."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.supply.locking import ROOT
from tests.supply.wheels import PLATFORMS, find_missing

ROOMS = ("schemas", "bus", "agents", "runtime", "configs")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is packaged: setuptools leaves its work beside it."""
    copy = tmp_path_factory.mktemp("tree")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in (*ROOMS, "deploy/client"):
        leave_out = shutil.ignore_patterns("__pycache__", "src", "build", "*.egg-info", "node_modules")
        shutil.copytree(ROOT / name, copy / name, ignore=leave_out)
    return copy


def build_wheel(source: Path, target: Path) -> set[str]:
    """Build a wheel with the installed setuptools; the names of its files, its metadata aside."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir"]
    subprocess.run([*command, str(target), str(source)], check=True, capture_output=True)
    (wheel,) = target.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_the_runtimes_wheel_has_every_file_of_its_rooms(tree: Path, tmp_path: Path) -> None:
    # List first: setuptools writes into the tree.
    here = {str(path.relative_to(tree)) for room in ROOMS for path in (tree / room).rglob("*") if path.is_file()}
    names = build_wheel(tree, tmp_path)
    assert {f"{room}/py.typed" for room in ROOMS} <= names
    assert here - names == set()
    assert names - here == set()


def test_the_clients_wheel_is_typed_and_has_nothing_but_its_package(tree: Path, tmp_path: Path) -> None:
    names = build_wheel(tree / "deploy" / "client", tmp_path)
    assert "micro_kiki_client/py.typed" in names
    assert {name.partition("/")[0] for name in names} == {"micro_kiki_client"}
    assert {"micro_kiki_client/bus/client.py", "micro_kiki_client/schemas/events.py"} <= names


def write_wheels(folder: Path, *tags: str) -> None:
    """A wheel of one package for each tag, named after it."""
    for number, tag in enumerate(tags):
        info = f"stone{number}-1.0.dist-info"
        with zipfile.ZipFile(folder / f"stone{number}-1.0-{tag}.whl", "w") as wheel:
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: stone{number}\nVersion: 1.0\n")
            wheel.writestr(f"{info}/WHEEL", f"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: {tag}\n")
            wheel.writestr(f"{info}/RECORD", "")


def test_a_package_without_a_wheel_for_a_python_or_a_platform_is_named(tmp_path: Path) -> None:
    write_wheels(tmp_path, "py3-none-any", "cp312-cp312-manylinux_2_28_x86_64", "cp311-cp311-manylinux_2_28_x86_64")
    pins = [Requirement(f"stone{number}==1.0") for number in range(3)]
    local = ("--no-index", "--find-links", str(tmp_path))
    linux, mac = PLATFORMS
    assert find_missing(pins[:2], "3.12", linux, *local) == []
    assert sorted(find_missing(pins, "3.12", linux, *local)) == ["stone2"]
    assert sorted(find_missing(pins, "3.13", linux, *local)) == ["stone1", "stone2"]
    assert sorted(find_missing(pins, "3.12", mac, *local)) == ["stone1", "stone2"]
    elsewhere = [Requirement("stone2==1.0 ; sys_platform == 'linux'")]
    assert find_missing(elsewhere, "3.12", mac, *local) == []
