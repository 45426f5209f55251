"""Namespaces of Linux for a soak: its network, mounts and processes are its own, and all of them end with it.

Only root may make them. Elsewhere the soak runs as any other command, and leaves out the faults that need them.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ISOLATED = "KIKI_SOAK_ISOLATED"
"""Set where the command runs in namespaces of its own."""

TOOLS = ("unshare", "nsenter", "ip", "mount")

UNSHARE = ("unshare", "--net", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child")
"""What runs a command in namespaces of its own, which end with it."""

NEAR, FAR = "192.0.2.1", "192.0.2.2"
"""The two ends of the cable, addresses for documentation (RFC 5737)."""

START_SECONDS = 10.0


def find_hindrance() -> str:
    """Why no namespaces can be made; empty when they can."""
    if sys.platform != "linux":
        return "namespaces are Linux's"
    if os.geteuid() != 0:
        return "namespaces need root"
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        return f"there is no {missing[0]}"
    tries = "ip link set lo up && ip link add near type veth peer name far && mount -t tmpfs tmpfs /tmp"
    probe = subprocess.run([*UNSHARE, "sh", "-c", tries], capture_output=True, text=True, check=False)
    return "" if probe.returncode == 0 else f"namespaces cannot be used: {probe.stderr.strip()}"


def is_isolated() -> bool:
    """Whether this process runs in namespaces of the soak."""
    return ISOLATED in os.environ


def enter() -> None:
    """Run this command again in namespaces of its own, in this process's place.

    A shell is the first process there: it takes over, and reaps, those whose parents were killed. All end with it.
    """
    init = ["sh", "-c", 'ip link set lo up; "$@"; exit $?', "soak", sys.executable, "-m", "runtime", *sys.argv[1:]]
    os.execvpe(UNSHARE[0], [*UNSHARE, *init], {**os.environ, ISOLATED: "1"})


def mount_disk(directory: Path, megabytes: int) -> None:
    """Mount a file system in memory; it is gone with the namespace."""
    directory.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(directory)], check=True)


@contextlib.contextmanager
def fill_disk(directory: Path) -> Iterator[None]:
    """Every free byte of the directory's disk is taken for as long as the context lasts."""
    filler = directory / "filler"
    try:
        for size in (2**20, 2**10):
            with filler.open("ab", buffering=0) as file, contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
        yield
    finally:
        filler.unlink(missing_ok=True)


class Cable:
    """A network of two machines: here, and a namespace whose processes reach the broker over a cable alone.

    There a relay listens at the broker's address and passes on over the cable, so that the processes' settings are the
    same on both sides. While the cable is pulled, connections are silent: no byte comes, and none is refused.
    """

    def __init__(self, port: int) -> None:
        self._far = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        self._wait_until_it_is_elsewhere()
        self._ip("link", "add", "near", "type", "veth", "peer", "name", "far", "netns", str(self._far.pid))
        self._ip("addr", "add", f"{NEAR}/30", "dev", "near")
        self._ip("link", "set", "near", "up")
        for words in (
            ("addr", "add", f"{FAR}/30", "dev", "far"),
            ("link", "set", "lo", "up"),
            ("link", "set", "far", "up"),
        ):
            subprocess.run([*self.prefix, "ip", *words], check=True)
        relay, local = [sys.executable, "-m", "runtime.soak.relay"], f"127.0.0.1:{port}"
        self._relays = [
            subprocess.Popen([*relay, f"{NEAR}:{port}", local]),
            subprocess.Popen([*self.prefix, *relay, local, f"{NEAR}:{port}"]),
        ]

    @property
    def prefix(self) -> list[str]:
        """What stands before a command that is to run at the far end."""
        return ["nsenter", f"--net=/proc/{self._far.pid}/ns/net", "--"]

    @contextlib.contextmanager
    def pull(self) -> Iterator[None]:
        """Nothing passes for as long as the context lasts."""
        self._ip("link", "set", "near", "down")
        try:
            yield
        finally:
            self._ip("link", "set", "near", "up")

    def close(self) -> None:
        """End the relays and the namespace."""
        for process in (*self._relays, self._far):
            process.kill()
            process.wait()

    def _ip(self, *words: str) -> None:
        subprocess.run(["ip", *words], check=True)

    def _wait_until_it_is_elsewhere(self) -> None:
        own, end = Path("/proc/self/ns/net").readlink(), time.monotonic() + START_SECONDS
        while Path(f"/proc/{self._far.pid}/ns/net").readlink() == own:
            if time.monotonic() > end:
                raise TimeoutError("no network namespace was made")
            time.sleep(0.01)
