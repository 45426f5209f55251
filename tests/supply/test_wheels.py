"""The wheels of the runtime and of the client hold every file that they need, and say that they are typed."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.supply.locking import ROOT

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
