"""A broker that asks for a login: it is read from the URL, percent-encoded, and is never printed."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from urllib.parse import quote

import anyio
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from bus.access.address import read_address, without_login
from bus.broker import find_executable
from bus.client import connect as connect_client
from bus.connection import Bus, BusSettings, connect
from schemas.errors import SetupError, Unavailable
from tests.e2e.conftest import free_port

USER, PASSWORD, WRONG = "ann@home", "p%41/ss:w,#rd?[@", "s3cret-and-wrong"
HOST = "127.0.0.1"


def url_of(port: int, password: str = PASSWORD) -> str:
    return f"nats://{quote(USER, safe='')}:{quote(password, safe='')}@{HOST}:{port}"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a nats-server that asks for user and password."""
    folder, port = tmp_path_factory.mktemp("guarded"), free_port()
    config = folder / "nats.conf"
    config.write_text(
        f'listen: "{HOST}:{port}"\nports_file_dir: "{folder}"\njetstream {{ store_dir: "{folder}/jetstream" }}\n'
        f'authorization {{ user: "{USER}", password: "{PASSWORD}" }}\n'
    )
    with subprocess.Popen([find_executable(), "-c", str(config)], stderr=subprocess.DEVNULL) as server:
        try:
            while not list(folder.glob("*.ports")):
                assert server.poll() is None
            yield port
        finally:
            server.terminate()


@pytest.mark.anyio
@pytest.mark.parametrize("before", [0, 1], ids=["one", "several"])
async def test_a_login_is_decoded_for_one_address_and_for_several(guarded: int, before: int) -> None:
    url = ",".join([*(url_of(free_port()) for _ in range(before)), url_of(guarded)])
    async with connect(BusSettings(url=url, connect_timeout=10.0), name="test") as bus:
        await bus.reconcile()
    async with connect_client(url) as client:
        assert client.connection.is_connected


@pytest.mark.anyio
async def test_a_refused_login_is_told_without_the_login(guarded: int) -> None:
    for url in (url_of(guarded, WRONG), f"nats://{WRONG}@{HOST}:{guarded}"):
        with pytest.raises(SetupError, match=f"{HOST}:{guarded} refused the login") as refusal:
            async with connect(BusSettings(url=url), name="test"):
                pass
        assert WRONG not in str(refusal.value)
        with pytest.raises(SetupError, match="refused the login") as refusal:
            async with connect_client(url, max_reconnect_attempts=1, reconnect_time_wait=0.05):
                pass
        assert WRONG not in str(refusal.value)


@pytest.mark.anyio
async def test_an_absent_broker_is_told_without_the_login() -> None:
    url = url_of(9, WRONG)
    with pytest.raises(Unavailable, match=rf"no NATS server answers at nats://{HOST}:9 ") as absence:
        async with connect(BusSettings(url=url, connect_timeout=1.0), name="test"):
            pass
    assert WRONG not in str(absence.value)
    assert WRONG not in repr(BusSettings(url=url))


@pytest.mark.anyio
async def test_a_lost_broker_is_logged_without_the_login(tmp_path: Path) -> None:
    port = free_port()
    login = ["--user", USER, "--pass", PASSWORD]
    command = [find_executable(), "-a", HOST, "-p", str(port), *login, "-js", "-sd", str(tmp_path)]
    with structlog.testing.capture_logs() as lines:
        async with await anyio.open_process(command, stderr=subprocess.DEVNULL) as server:
            url = url_of(port)
            async for bus in _connect_soon(url):
                server.kill()
                while bus.is_connected:
                    await anyio.sleep(0.02)
    lost = [line for line in lines if line["event"] == "broker lost"]
    assert [line["url"] for line in lost] == [f"nats://{HOST}:{port}"]
    assert not [line for line in lines if quote(PASSWORD, safe="") in str(line) or PASSWORD in str(line)]


async def _connect_soon(url: str) -> AsyncIterator[Bus]:
    """The bus, once the server listens."""
    with anyio.fail_after(10):
        while True:
            try:
                async with connect(BusSettings(url=url), name="test") as bus:
                    yield bus
                    return
            except Unavailable:
                await anyio.sleep(0.05)


@pytest.mark.parametrize("password", [PASSWORD, WRONG], ids=["right", "wrong"])
def test_the_doctor_names_the_server_without_the_login(guarded: int, tmp_path: Path, password: str) -> None:
    environment = {**os.environ, "KIKI_NATS": url_of(guarded, password), "KIKI_DATA_DIR": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-m", "runtime", "doctor"], env=environment, capture_output=True, text=True, check=False
    )
    printed = result.stdout + result.stderr
    assert f"{HOST}:{guarded}" in printed.replace("\n", "")
    assert not [text for text in (PASSWORD, WRONG, quote(password, safe="")) if text in printed]


@pytest.mark.parametrize("url", ["nats://", "nats://u:p/w@host:4222", "nats://u:pw@:x", "nats://u:a@h,nats://u:b@h"])
def test_an_address_that_is_none_says_what_is_expected(url: str) -> None:
    with pytest.raises(SetupError) as refusal:
        read_address(url)
    assert refusal.value.param == "nats"
    assert "p/w" not in refusal.value.message


@given(st.text(min_size=1), st.text(min_size=1))
def test_every_login_survives_percent_encoding(user: str, password: str) -> None:
    try:
        login = f"{quote(user, safe='')}:{quote(password, safe='')}"
    except UnicodeEncodeError:  # half of a surrogate pair is no text
        return
    address = read_address(f"nats://{login}@one:1, {HOST}:2")
    assert address.login == {"user": user, "password": password}
    assert address.servers == ("nats://one:1", f"nats://{HOST}:2")
    assert without_login(f"nats://{login}@one:1") == "nats://one:1"
