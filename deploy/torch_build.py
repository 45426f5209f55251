"""Installs torch: on a Linux without an NVIDIA GPU its CPU build, else what the usual index has.

``python deploy/torch_build.py INDEX [OPTION OF PIP ...]``; an empty INDEX takes the usual one always. The torch of
PyPI brings CUDA's packages on Linux, whoever asks for it; its CPU build is on PyTorch's own index only. Nothing but
torch is taken from there, at the pinned version with ``+cpu`` behind it: pip gets no second index from which it could
take another package. An index that does not answer, or does not have that version, costs a few seconds and changes
nothing.

An AMD GPU counts as none: neither MLX nor the torch of PyPI uses it.
"""

import re
import shutil
import subprocess
import sys
import threading
import urllib.request
from http.client import HTTPException
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

LOCK = Path(__file__).parent / "requirements" / "torch.txt"
PATIENCE = 3.0
"""Seconds that the index has for its whole answer, its name's look-up included."""

CUDA_SIZE = "about 2.7 GB are fetched, most of it CUDA, and the environment takes 5.6 GB"
MARKS_OF_A_GPU = ("dev/nvidia*", "proc/driver/nvidia")


class TorchBuild(NamedTuple):
    """Which torch is installed: pip's arguments, and why, for the person who waits."""

    arguments: tuple[str, ...]
    reason: str


def main() -> None:
    """Install torch unless the pinned version is there, of whichever build."""
    index, *options = sys.argv[1:]
    try:
        if version("torch").partition("+")[0] == read_pin():
            return
    except PackageNotFoundError:
        pass
    sys.exit(install(choose_build(index, platform=sys.platform, gpu=find_gpu()), options))


def read_pin() -> str:
    """The version of torch that the lock file pins."""
    found: list[str] = re.findall(r"^torch==(\S+)", LOCK.read_text(encoding="utf-8"), re.MULTILINE)
    return found[0]


def find_gpu(root: Path = Path("/")) -> str | None:
    """By what an NVIDIA GPU shows, below ``root`` or by its own command; None without one."""
    for mark in MARKS_OF_A_GPU:
        if found := next(root.glob(mark), None):
            return str(found)
    command = shutil.which("nvidia-smi")
    if command is None:
        return None
    try:
        listed = subprocess.run([command, "-L"], capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return command if listed.returncode == 0 and listed.stdout.strip() else None


def choose_build(index: str, *, platform: str, gpu: str | None) -> TorchBuild:
    """Which torch to install. Asks the index, if that matters, and never raises."""
    usual = ("-c", str(LOCK), "torch")
    if platform != "linux":
        return TorchBuild(usual, "torch: this system's build has no CUDA")
    if gpu is not None:
        return TorchBuild(usual, f"torch with CUDA: {CUDA_SIZE}. There is a GPU ({gpu})")
    if not index:
        return TorchBuild(usual, f"torch with CUDA: {CUDA_SIZE}. There is no GPU, and no index of CPU builds is named")
    pin = f"{read_pin()}+cpu"
    if (problem := ask_index(index, pin)) is not None:
        return TorchBuild(usual, f"torch with CUDA: {CUDA_SIZE}. There is no GPU, but {index} {problem}")
    # --no-deps: what torch needs is locked with everything else, and was installed before.
    arguments = ("--no-deps", "--only-binary", ":all:", "--index-url", index, f"torch=={pin}")
    return TorchBuild(arguments, f"torch's CPU build, about 200 MB from {index}: there is no GPU")


def ask_index(index: str, pin: str) -> str | None:
    """What is wrong with an index of packages for this version of torch; None when it has it."""
    answers: list[str] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(f"{index.rstrip('/')}/torch/", timeout=PATIENCE) as reply:
                page = reply.read().decode(errors="replace")
        except (OSError, ValueError, HTTPException) as error:
            answers.append(f"cannot be used ({error})")
        else:
            listed = f"torch-{pin}-" in page.replace("%2B", "+").replace("%2b", "+")
            answers.append("" if listed else f"has no torch {pin}")

    # A thread, which is left behind: a look-up of a name knows no timeout, and a page that drips in has one a drop.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(PATIENCE)
    return (answers[0] or None) if answers else f"does not answer within {PATIENCE:.0f} s"


def install(choice: TorchBuild, options: list[str]) -> int:
    """Say what is installed and let pip do it; a CPU build that cannot be had after all gives way to the usual one."""
    print(f"Installing {choice.reason}", flush=True)
    if (code := _run_pip(choice, options)) == 0 or "--index-url" not in choice.arguments:
        return code
    print(f"It cannot be had from there, so torch comes with CUDA: {CUDA_SIZE}", flush=True)
    return _run_pip(TorchBuild(("-c", str(LOCK), "torch"), ""), options)


def _run_pip(choice: TorchBuild, options: list[str]) -> int:
    return subprocess.run([sys.executable, "-m", "pip", "install", *options, *choice.arguments], check=False).returncode


if __name__ == "__main__":
    main()
