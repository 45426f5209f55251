"""Programs outside the repository: their Python has the client's wheel and what it asks for, nothing else."""

import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.conftest import Runtime
from tests.supply.locking import LOCKS, read_pins

ROOT = Path(__file__).parents[2]
NOTHING: Mapping[str, str] = {}


def run_outside(
    command: list[str], environment: Mapping[str, str] = NOTHING, *, cwd: Path = Path("/")
) -> subprocess.CompletedProcess[str]:
    """Run outside the repository, without its path."""
    return subprocess.run(
        command, env=_clean(environment), cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )


@contextmanager
def run_beside(command: list[str], environment: Mapping[str, str], output: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A program outside the repository that runs as long as the context lasts; it writes into ``output``."""
    with output.open("wb") as sink:
        process = subprocess.Popen(command, env=_clean(environment), cwd="/", stdout=sink, stderr=sink)
        try:
            yield process
        finally:
            process.kill()
            process.wait(10)


def find_broker(runtime: Runtime) -> dict[str, str]:
    """The environment of a program that finds the broker and its owner's login."""
    return {"NATS_URL": runtime.nats, "KIKI_DATA_DIR": str(runtime.data_dir)}


def install_client(folder: Path) -> Path:
    """The interpreter of a fresh virtual environment in ``folder``, with the client's wheel as it is built here."""
    source = folder / "tree"
    for part in ("schemas", "bus", "deploy/client"):
        shutil.copytree(ROOT / part, source / part, ignore=shutil.ignore_patterns("node_modules", "src", "__pycache__"))
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    wheel_build = run_outside([*pip, "wheel", "--no-deps", "-w", str(folder), str(source / "deploy" / "client")])
    assert wheel_build.returncode == 0, wheel_build.stderr
    (wheel,) = folder.glob("*.whl")
    venv.create(folder / "venv", with_pip=False)
    inside = folder / "venv" / "bin" / "python"
    constraints = folder / "constraints.txt"
    constraints.write_text("\n".join(map(str, read_pins(LOCKS / "runtime.txt").values())))
    installation = run_outside([*pip, "--python", str(inside), "install", "-c", str(constraints), str(wheel)])
    assert installation.returncode == 0, installation.stderr
    return inside


def _clean(environment: Mapping[str, str]) -> dict[str, str]:
    return {**{name: value for name, value in os.environ.items() if name != "PYTHONPATH"}, **environment}
