"""Users from outside of a running runtime's broker, and other users of the machine."""

import os
import shutil
import socket
import sys
import tempfile
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess

import anyio
import pytest

from bus.access.login import OWNER, Login
from bus.agent import gather_reports
from bus.client import connect as connect_client
from bus.connection import BusSettings, connect
from bus.tenant_client import connect_tenant
from runtime.composition import bus_settings
from runtime.settings import load_settings
from runtime.supervisor import Supervisor
from schemas.errors import SetupError

pytestmark = pytest.mark.anyio

NOBODY = 65534
"""The user and group id of a stranger."""


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """A folder that everybody may look into, unlike those of pytest."""
    path = Path(tempfile.mkdtemp(prefix="kiki-outsiders-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture(scope="module")
async def supervisor(folder: Path) -> AsyncIterator[Supervisor]:
    """A runtime without a model; the gate for tenants is there."""
    running = Supervisor(load_settings(data_dir=folder / "data", nats_port=0), names=("services", "tenants", "catfish"))
    async with running.running():
        with anyio.fail_after(60):
            async with connect(bus_settings(running.settings), name="test") as bus:
                while {report.status.agent for report in await gather_reports(bus)} != set(running.names):
                    await anyio.sleep(0.1)
        yield running


async def kiki(supervisor: Supervisor, *arguments: str) -> CompletedProcess[str]:
    directory = supervisor.settings.data_dir
    variables = {**os.environ, "KIKI_DATA_DIR": str(directory), "KIKI_CONFIG": str(directory / "none.toml")}
    command = [sys.executable, "-m", "runtime", "broker", *arguments]
    result = await anyio.run_process(command, env={**variables, "COLUMNS": "200"}, check=False)
    return CompletedProcess(command, result.returncode, result.stdout.decode(), result.stderr.decode())


def url_of(supervisor: Supervisor) -> str:
    assert supervisor.broker is not None
    return supervisor.broker.url


async def test_users_from_outside_come_and_go_while_the_runtime_works(supervisor: Supervisor, tmp_path: Path) -> None:
    made = await kiki(supervisor, "creds", "bot", "--tenant", "acme")
    trusted = await kiki(supervisor, "creds", "spy")
    assert (made.returncode, trusted.returncode) == (0, 0), made.stderr + trusted.stderr
    tenants_file, trusted_file = Path(made.stdout.strip()), Path(trusted.stdout.strip())
    assert [path.stat().st_mode & 0o777 for path in (tenants_file, trusted_file)] == [0o600, 0o600]
    assert (await kiki(supervisor, "creds", "bot", "--tenant", "acme")).stdout == made.stdout
    assert (await kiki(supervisor, "ls")).stdout.splitlines() == ["bot, tenant acme", "spy, trusted"]
    async with connect_tenant(url_of(supervisor), tenants_file) as client:
        assert (await client.read_records()).records == ()
    async with connect_client(url_of(supervisor), login=Login(nkey=trusted_file)) as client:
        assert await client.services() == ()
    copy = tmp_path / tenants_file.name
    copy.write_bytes(tenants_file.read_bytes())
    gone = await kiki(supervisor, "revoke", "bot", "--tenant", "acme")
    assert gone.returncode == 0, gone.stderr
    assert (await kiki(supervisor, "ls")).stdout.splitlines() == ["spy, trusted"]
    with pytest.raises(SetupError, match="refused the login"):
        async with connect_tenant(url_of(supervisor), copy):
            pass
    async with connect_client(url_of(supervisor), login=Login(nkey=trusted_file)) as client:
        assert await client.services() == ()
    assert [child.deaths.count for child in supervisor.children.values()] == [0, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("creds", "memory"), "user of the runtime's own"),
        (("creds", "owner"), "user of the runtime's own"),
        (("creds", "a.b"), "may have letters"),
        (("creds", "a", "--tenant", "*"), "may have letters"),
        (("creds", "a", "--tenant", "x.>"), "may have letters"),
        (("revoke", "nobody"), "there is no user 'nobody'"),
    ],
)
async def test_a_name_that_cannot_be_is_refused(
    supervisor: Supervisor, arguments: tuple[str, ...], message: str
) -> None:
    result = await kiki(supervisor, *arguments)
    assert result.returncode != 0
    assert message in result.stderr


def run_as_nobody(act: Callable[[], bool]) -> bool:
    """What ``act`` returns in a process of another user, who may not read this interpreter's modules either."""
    child = os.fork()
    if child == 0:
        code = 2
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            code = int(act())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 1)
    return bool(code)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_another_user_of_the_machine_reads_no_file(supervisor: Supervisor) -> None:
    directory = supervisor.settings.data_dir
    paths = [directory, *directory.rglob("*")]
    assert {path.name for path in paths} >= {f"{OWNER}.nk", "users.conf", "nats.conf", "jetstream", "runtime.lock"}

    def reads_something() -> bool:
        for path in paths:
            try:
                _ = os.listdir(path) if os.path.isdir(path) else os.open(path, os.O_RDONLY)
            except OSError:
                continue
            return True
        return False

    assert not run_as_nobody(reads_something)
    directory.chmod(0o755)  # as a mend by hand may leave it
    try:
        secret = [path for path in paths if path.is_relative_to(directory / "nats")]
        paths[:] = secret
        assert not run_as_nobody(reads_something)
    finally:
        directory.chmod(0o700)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_another_user_of_the_machine_does_not_get_onto_the_broker(supervisor: Supervisor) -> None:
    port = int(url_of(supervisor).rpartition(":")[2])

    def gets_in() -> bool:
        for login in (b"{}", b'{"user": "owner", "pass": ""}', b'{"verbose": false, "nkey": "U", "sig": "x"}'):
            with socket.socket() as stream:
                stream.settimeout(5)
                stream.connect(("127.0.0.1", port))
                stream.sendall(b"CONNECT " + login + b"\r\nSUB > 1\r\nPING\r\n")
                answer = b"".join(iter(lambda: stream.recv(4096), b""))
                if b"PONG" in answer or b"Authorization Violation" not in answer:
                    return True
        return False

    assert not run_as_nobody(gets_in)


async def test_a_runtime_of_before_is_closed_at_its_next_start(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    for path in (directory, directory / "nats"):
        path.mkdir(mode=0o755)
    async with Supervisor(load_settings(data_dir=directory, nats_port=0), names=()).running() as running:
        with pytest.raises(SetupError, match="refused the login"):
            async with connect(BusSettings(url=url_of(running)), name="nobody"):
                pass
    assert [path.stat().st_mode & 0o777 for path in (directory, directory / "nats")] == [0o700, 0o700]
