"""Does every locked package have a wheel for another Python? ``python -m tests.supply.wheels 3.12 3.13``.

uv chooses among the files of the index as it would there, on Linux and on a Mac, and fetches none of them. What
``source.txt`` pins is built from source everywhere.
"""

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.supply.locking import LOCKS, read_pins

PLATFORMS = ("x86_64-manylinux_2_36", "aarch64-apple-darwin")
"""glibc of Debian 12: mlx's wheel is for 2.35 and later. Of macOS the release is :data:`MACOS`."""
MACOS = "15.0"
CHOOSE = ("uv", "pip", "compile", "--quiet", "--no-deps", "--only-binary", ":all:", "--no-header")
NAMED = re.compile(r"(?:Because|And because) (\S+?)==")


def main() -> None:
    """Print what lacks a wheel, a line each; exit with 1 when something does."""
    versions = sys.argv[1:]
    pins = [*(read_pins(LOCKS / "dev.txt") | read_pins(LOCKS / "torch.txt")).values()]
    targets = [(version, platform) for version in versions for platform in PLATFORMS]
    missing = [
        f"{name}: no wheel for Python {version} on {platform}"
        for version, platform in targets
        for name in find_missing(pins, version, platform)
    ]
    print(*missing, f"{len(pins)} packages, {len(targets)} targets: {len(missing)} wheels are missing", sep="\n")
    sys.exit(bool(missing))


def find_missing(pins: Iterable[Requirement], version: str, platform: str, *options: str) -> list[str]:
    """The names of those that have no wheel for that Python and platform; ``options`` are uv's.

    Raises:
        RuntimeError: uv fails for another reason, as an index that is away.
    """
    left = {canonicalize_name(pin.name): pin for pin in pins}
    missing: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        names = Path(folder, "pins.in")
        target = ("--python-version", version, "--python-platform", platform)
        command = [sys.executable, "-m", *CHOOSE, *target, *options, str(names)]
        environment = {**os.environ, "MACOSX_DEPLOYMENT_TARGET": MACOS}
        while left:
            names.write_text("".join(f"{pin}\n" for pin in left.values()))
            outcome = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
            if outcome.returncode == 0:
                break
            named = NAMED.search(outcome.stderr)
            if named is None or named[1] not in left:
                raise RuntimeError(outcome.stderr)
            missing.append(named[1])  # uv names one at a time
            del left[canonicalize_name(named[1])]
    return missing


if __name__ == "__main__":
    main()
