"""Makes the lock files again: ``python -m tests.supply.locking [--upgrade]``, or ``make lock``.

uv resolves pyproject.toml for all Pythons and platforms at once. ``runtime.txt`` and ``dev.txt`` have the hashes of
every file that the index offers for a version, ``source.txt`` of the packages that have no wheel; torch and its CUDA
packages stand without hashes in ``torch.txt``, since people take them from other indexes, too. Pins that the files
have are kept, unless ``--upgrade`` asks for the newest.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
LOCKS = ROOT / "deploy" / "requirements"
ASIDE = re.compile("(torch|triton|nvidia-.*|cuda-.*)==")
"""The packages of ``torch.txt``."""
WITHOUT_WHEEL = re.compile("(nkeys)==")
"""The packages of ``source.txt``: the locked setuptools builds them here, and nothing is fetched for that."""

COMPILE = ("uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.11", "--fork-strategy", "fewest")
PLAIN = ("--generate-hashes", "--no-header", "--no-annotate", "--no-emit-package", "pip")
"""pip is not pinned: it comes with Python and installs the rest."""

HEADER = "# Written by 'make lock' from pyproject.toml. {}\n"


def main() -> None:
    """Write the lock files."""
    upgrade = sys.argv[1:]
    with tempfile.TemporaryDirectory() as folder:
        everything, runtime = Path(folder, "dev.txt"), Path(folder, "runtime.txt")
        kept = [path.read_text() for path in (LOCKS / f"{name}.txt" for name in ("dev", "source", "torch"))]
        everything.write_text("".join(kept))
        _compile("--extra", "dev", *upgrade, output=everything)
        _compile("--constraints", str(everything), output=runtime)
        pins, sources, aside = split_lock(everything.read_text())
        needed, _, _ = split_lock(runtime.read_text())
    (LOCKS / "dev.txt").write_text(HEADER.format("What runs and what tests need.") + pins)
    (LOCKS / "runtime.txt").write_text(HEADER.format("What runs, torch aside.") + needed)
    (LOCKS / "source.txt").write_text(HEADER.format("What runs and has no wheel.") + sources)
    (LOCKS / "torch.txt").write_text(HEADER.format("torch and its CUDA packages, without hashes.") + aside)


def split_lock(text: str) -> tuple[str, str, str]:
    """The pins with their hashes, those of packages without a wheel, and those of torch's packages without hashes."""
    blocks = [block for block in re.split(r"^(?=[\w])", text, flags=re.MULTILINE) if block[:1] not in ("", "#")]
    sources = [block for block in blocks if WITHOUT_WHEEL.match(block)]
    aside = [block for block in blocks if ASIDE.match(block)]
    pins = [block for block in blocks if block not in sources and block not in aside]
    return "".join(pins), "".join(sources), "".join(block.partition(" \\")[0] + "\n" for block in aside)


def read_pins(lock: Path) -> dict[str, Requirement]:
    """The requirement of each pin of a lock file, by name, without its hashes."""
    lines = (line.removesuffix(" \\") for line in lock.read_text().splitlines() if line[:1].isalpha())
    return {canonicalize_name(pin.name): pin for pin in map(Requirement, lines)}


def _compile(*arguments: str, output: Path) -> None:
    command = [sys.executable, "-m", *COMPILE, *PLAIN, "pyproject.toml", *arguments, "--output-file", str(output)]
    subprocess.run(command, cwd=ROOT, check=True)


if __name__ == "__main__":
    main()
