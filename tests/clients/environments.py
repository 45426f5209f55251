"""An environment per client outside the main one: what its lock pins, built once into the user's cache."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import filelock
import platformdirs

from tests.clients.catalogue import FOLDER, Language, StockClient
from tests.maven import build_classpath

CACHE = Path(platformdirs.user_cache_dir("micro-kiki", appauthor=False)) / "clients"
BUILD_SECONDS = 1800.0
"""Of one environment; Rust takes longest."""


class ToolchainMissing(Exception):
    """The machine lacks what the client is written in; the tests are skipped."""


class BuildFailed(Exception):
    """The environment cannot be built: a registry does not answer, or a pin is wrong."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit status, None when it ran out of time, and what it wrote."""

    status: int | None
    output: str
    log: str


def run(command: Sequence[str], *, timeout: float, cwd: Path = FOLDER, **variables: str) -> Outcome:
    """Run a command without the main environment; it and whatever it started end with the timeout."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "KIKI_"))}
    process = subprocess.Popen(
        command,
        env={**inherited, **variables},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    status: int | None = None
    try:
        output, log = process.communicate(timeout=timeout)
        status = process.returncode
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, log = process.communicate()
    return Outcome(status, output, log)


def prepare(client: StockClient) -> list[str]:
    """The command that runs the client's program, in an environment that is built when it is not there.

    Raises:
        ToolchainMissing: the machine cannot run it.
        BuildFailed: the environment cannot be built.
    """
    CACHE.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(CACHE / f"{client.language}.lock"):
        return _PREPARATIONS[client.language](client)


def _prepare_python(client: StockClient) -> list[str]:
    lock = FOLDER / client.lock
    key = hashlib.sha256(f"{sys.version_info[:2]}".encode() + lock.read_bytes()).hexdigest()[:12]
    folder = CACHE / f"python-{lock.stem}-{key}"
    python = folder / "bin" / "python"
    if not (folder / "complete").exists():
        shutil.rmtree(folder, ignore_errors=True)
        _build([sys.executable, "-m", "venv", str(folder)])
        _build([str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", str(lock)])
        (folder / "complete").touch()
    return [str(python), str(FOLDER / client.program)]


def _prepare_node(client: StockClient) -> list[str]:
    _require("node", "npm")
    if not (FOLDER / "node" / "node_modules").exists():
        raise ToolchainMissing("npm's packages for the clients are not here: 'make test' and 'make soak' install them")
    return ["node", str(FOLDER / client.program)]


def _prepare_go(client: StockClient) -> list[str]:
    _require("go")
    package = Path(client.program).parent
    binary = CACHE / "go" / package.name
    _build(["go", "build", "-o", str(binary), f"./{package.name}"], cwd=FOLDER / package.parent)
    return [str(binary)]


def _prepare_java(client: StockClient) -> list[str]:
    _require("java", "javac", "mvn")
    program, folder = FOLDER / client.program, CACHE / "java" / Path(client.program).parent.name
    folder.mkdir(parents=True, exist_ok=True)
    try:
        classpath = build_classpath(FOLDER / client.lock, folder / "classpath", timeout=BUILD_SECONDS)
    except OSError as error:
        raise BuildFailed(str(error)) from error
    sources = [str(program), *map(str, sorted((FOLDER / "java").glob("*.java")))]
    _build(["javac", "-d", str(folder / "classes"), "-cp", classpath, *sources])
    return ["java", "-XX:TieredStopAtLevel=1", "-cp", f"{folder / 'classes'}:{classpath}", program.stem]


def _prepare_rust(client: StockClient) -> list[str]:
    _require("cargo")
    target = CACHE / "rust"
    manifest = FOLDER / client.lock
    _build(["nice", "-n", "10", "cargo", "build", "-q", "--locked", "--manifest-path", str(manifest),
            "--target-dir", str(target)])  # fmt: skip
    return [str(target / "debug" / client.package.replace("-", "_"))]


_PREPARATIONS: dict[Language, Callable[[StockClient], list[str]]] = {
    "Python": _prepare_python,
    "Node": _prepare_node,
    "Go": _prepare_go,
    "Java": _prepare_java,
    "Rust": _prepare_rust,
}


def _require(*commands: str) -> None:
    if missing := [command for command in commands if shutil.which(command) is None]:
        raise ToolchainMissing(f"{' and '.join(missing)} not here")


def _build(command: Sequence[str], *, cwd: Path = FOLDER) -> None:
    outcome = run(command, timeout=BUILD_SECONDS, cwd=cwd)
    if outcome.status != 0:
        raise BuildFailed(f"{' '.join(command)}: {(outcome.log or outcome.output)[-1500:]}")
