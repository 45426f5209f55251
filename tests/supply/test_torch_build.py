"""Which torch is installed where, against an index that answers, refuses, is silent or drips; pip itself installs."""

import re
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from deploy import torch_build
from deploy.torch_build import TorchBuild, ask_index, choose_build, find_gpu, install, read_pin
from tests.supply.locking import LOCKS, ROOT, read_pins

CPU = f"{read_pin()}+cpu"
QUIET = ["--disable-pip-version-check", "--quiet", "--retries", "0"]


def write_wheel(folder: Path, version: str) -> Path:
    """A torch of that version that holds one line."""
    info = f"torch-{version}.dist-info"
    path = folder / f"torch-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("torch.py", f"version = {version!r}\n")
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return path


@dataclass
class Index:
    """An index of packages (PEP 503) on loopback, and the paths that were asked for."""

    url: str
    asked: list[str] = field(default_factory=list)


@contextmanager
def serve_index(wheel: Path, *, status: int = 200, drip: bool = False, loses_wheel: bool = False) -> Iterator[Index]:
    """Serve the page of one package with one wheel; ``drip`` sends a byte of the page every half second."""
    asked: list[str] = []
    ended = threading.Event()

    class IndexHandler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            is_wheel = self.path.endswith(".whl")
            link = wheel.name.replace("+", "%2B")
            body = wheel.read_bytes() if is_wheel else f'<!DOCTYPE html><a href="{link}">{wheel.name}</a>'.encode()
            self.send_response(404 if is_wheel and loses_wheel else status)
            self.send_header("Content-Type", "application/octet-stream" if is_wheel else "text/html")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            for at in range(len(body) if drip else 0):
                if ended.wait(0.5):
                    return
                self.wfile.write(body[at : at + 1])
            if not drip:
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), IndexHandler)
    serving = threading.Thread(target=server.serve_forever)
    serving.start()
    try:
        yield Index(f"http://127.0.0.1:{server.server_port}/simple", asked)
    finally:
        ended.set()
        server.shutdown()
        serving.join()
        server.server_close()


@pytest.fixture
def usual(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """The index that pip asks when nobody names another one; it has the build with CUDA."""
    for name in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    with serve_index(write_wheel(tmp_path, read_pin())) as index:
        monkeypatch.setenv("PIP_INDEX_URL", index.url)
        yield index


def install_into(folder: Path, choice: TorchBuild) -> str:
    """The version of torch that pip installed into a folder."""
    assert install(choice, [*QUIET, "--target", str(folder)]) == 0
    return (folder / "torch.py").read_text().split("'")[1]


def test_without_a_gpu_torch_alone_comes_from_the_index_of_cpu_builds(
    tmp_path: Path, usual: Index, capfd: pytest.CaptureFixture[str]
) -> None:
    with serve_index(write_wheel(tmp_path, CPU)) as index:
        choice = choose_build(index.url, platform="linux", gpu=None)
        assert install_into(tmp_path / "site", choice) == CPU
        assert {path.split("/")[2] for path in index.asked} == {"torch"}
    assert usual.asked == []
    assert not any("extra" in argument for argument in choice.arguments)
    assert capfd.readouterr().out.startswith(f"Installing torch's CPU build, about 200 MB from {index.url}")


def test_with_a_gpu_nobody_asks_that_index(tmp_path: Path, usual: Index, capfd: pytest.CaptureFixture[str]) -> None:
    with serve_index(write_wheel(tmp_path, CPU)) as index:
        choice = choose_build(index.url, platform="linux", gpu="/dev/nvidia0")
        assert install_into(tmp_path / "site", choice) == read_pin()
    assert index.asked == []
    said = capfd.readouterr().out
    assert "2.7 GB are fetched" in said
    assert "There is a GPU (/dev/nvidia0)" in said


def test_turned_off_or_on_another_system_torch_comes_from_the_usual_index(tmp_path: Path, usual: Index) -> None:
    off = choose_build("", platform="linux", gpu=None)
    assert "no index of CPU builds is named" in off.reason
    assert install_into(tmp_path / "site", off) == read_pin()
    with serve_index(write_wheel(tmp_path, CPU)) as index:
        assert choose_build(index.url, platform="darwin", gpu=None).arguments == off.arguments
    assert index.asked == []


@pytest.mark.parametrize("drip", [False, True], ids=["accepts and says nothing", "drips"])
def test_a_silent_index_costs_three_seconds(
    tmp_path: Path, usual: Index, drip: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    with serve_index(write_wheel(tmp_path, CPU), drip=True) as dripping, socket_without_answer() as silent:
        url = dripping.url if drip else silent
        began = time.monotonic()
        choice = choose_build(url, platform="linux", gpu=None)
        assert time.monotonic() - began < 2 * torch_build.PATIENCE
        assert install_into(tmp_path / "site", choice) == read_pin()
    said = capfd.readouterr().out
    assert "2.7 GB are fetched" in said
    assert f"There is no GPU, but {url}" in said
    assert "does not answer within 3 s" in said or "timed out" in said


@contextmanager
def socket_without_answer() -> Iterator[str]:
    """Something that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_an_index_that_refuses_or_lacks_the_version_is_not_used(tmp_path: Path, usual: Index) -> None:
    with serve_index(write_wheel(tmp_path, CPU), status=403) as index:
        assert "403" in str(ask_index(index.url, CPU))
    assert "cannot be used" in str(ask_index(index.url, CPU)), "nobody listens there any more"
    assert "cannot be used" in str(ask_index("no address", CPU))
    with serve_index(write_wheel(tmp_path, "1.0+cpu")) as index:
        choice = choose_build(index.url, platform="linux", gpu=None)
    assert f"has no torch {CPU}" in choice.reason
    assert install_into(tmp_path / "site", choice) == read_pin()


def test_a_build_that_is_listed_and_cannot_be_fetched_gives_way_to_the_usual_one(
    tmp_path: Path, usual: Index, capfd: pytest.CaptureFixture[str]
) -> None:
    with serve_index(write_wheel(tmp_path, CPU), loses_wheel=True) as index:
        choice = choose_build(index.url, platform="linux", gpu=None)
        assert install_into(tmp_path / "site", choice) == read_pin()
    assert "It cannot be had from there, so torch comes with CUDA" in capfd.readouterr().out


def test_a_failure_of_the_usual_index_is_one(tmp_path: Path, usual: Index) -> None:
    choice = TorchBuild(("torch==0.0.0",), "a version that nobody has")
    assert install(choice, [*QUIET, "--target", str(tmp_path / "site")]) != 0


def test_a_gpu_is_known_by_its_device_its_driver_or_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev" / "kfd").touch()  # an AMD GPU
    assert find_gpu(tmp_path) is None
    command = tmp_path / "bin" / "nvidia-smi"
    for script, found in (("exit 9", None), ("exit 0", None), ("echo GPU 0", str(command))):
        command.write_text(f"#!/bin/sh\n{script}\n")
        command.chmod(0o755)
        assert find_gpu(tmp_path) == found, script
    (tmp_path / "proc" / "driver" / "nvidia").mkdir(parents=True)
    assert find_gpu(tmp_path) == str(tmp_path / "proc" / "driver" / "nvidia")
    (tmp_path / "dev" / "nvidia0").touch()
    assert find_gpu(tmp_path) == str(tmp_path / "dev" / "nvidia0")


def test_the_pinned_torch_that_is_installed_stays_and_nobody_is_asked(tmp_path: Path) -> None:
    with serve_index(write_wheel(tmp_path, CPU)) as index:
        command = [sys.executable, str(ROOT / "deploy" / "torch_build.py"), index.url]
        outcome = subprocess.run(command, check=True, capture_output=True, text=True)
    assert (outcome.stdout, outcome.stderr, index.asked) == ("", "", [])


def test_the_version_is_that_of_the_lock() -> None:
    assert str(read_pins(LOCKS / "torch.txt")["torch"].specifier) == f"=={read_pin()}"


def test_make_names_the_index_and_an_empty_variable_turns_it_off() -> None:
    def list_calls(*variables: str) -> list[str]:
        plan = subprocess.run(
            ["make", "-n", "-B", "-C", ROOT, "install", *variables], capture_output=True, text=True, check=True
        )
        return re.findall(r'deploy/torch_build\.py "(.*?)"', plan.stdout)

    assert list_calls() == ["https://download.pytorch.org/whl/cpu"]
    assert list_calls("TORCH_CPU_INDEX=") == [""]
