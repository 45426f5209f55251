"""Logins of files against servers that ask for them: nkey, credentials, TLS with a client's certificate."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import nkeys
import platformdirs
import pytest

from bus.access.login import Login, default_data_dir
from bus.client import connect as connect_client
from bus.connection import BusSettings, connect
from schemas.errors import SetupError
from tests.bus.access.servers import new_key, serve, sign_jwt, write_certificates

pytestmark = pytest.mark.anyio


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("login")


async def check(url: str, login: Login, wrong: Login, message: str) -> None:
    """Both clients get in with ``login``, and are told why they do not with ``wrong`` and with none."""
    async with connect(BusSettings(url=url, login=login), name="test") as bus:
        assert bus.new_inbox().startswith(f"{login.inbox}.")
    async with connect_client(url, login=login) as client:
        assert client.connection.is_connected
    for refused in (wrong, Login()):
        with pytest.raises(SetupError, match=message):
            async with connect(BusSettings(url=url, login=refused), name="test"):
                pass
        with pytest.raises(SetupError, match=message):
            async with connect_client(url, login=refused, max_reconnect_attempts=1, reconnect_time_wait=0.05):
                pass


async def test_an_nkey_opens_the_server_that_knows_it(folder: Path) -> None:
    seed, public = new_key()
    nkey, wrong = folder / "ann.nk", folder / "bob.nk"
    nkey.write_text(seed)
    wrong.write_text(new_key()[0])
    with serve(folder, f"authorization {{ users: [{{nkey: {public}}}] }}") as url:
        await check(url, Login(nkey=nkey), Login(nkey=wrong), "refused the login.*nats_nkey")
    assert Login(nkey=nkey).inbox == "_INBOX.ann"


async def test_a_credentials_file_opens_the_server_that_trusts_its_account(tmp_path: Path) -> None:
    operator_seed, operator = new_key(nkeys.PREFIX_BYTE_OPERATOR)
    account_seed, account = new_key(nkeys.PREFIX_BYTE_ACCOUNT)
    unlimited = {"subs": -1, "data": -1, "payload": -1, "conn": -1, "leaf": -1, "imports": -1, "exports": -1}
    storage = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}
    limits = {"limits": {**unlimited, **storage, "wildcards": True}, "type": "account"}
    account_jwt = sign_jwt(operator_seed, account, "account", limits)
    operator_jwt = sign_jwt(operator_seed, operator, "operator", {"type": "operator"})

    def write_creds(name: str, signer: str) -> Path:
        seed, public = new_key()
        claims = {"type": "user", "subs": -1, "data": -1, "payload": -1}
        jwt = sign_jwt(signer, public, name, claims)
        path = tmp_path / f"{name}.creds"
        path.write_text(
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        )
        return path

    creds, wrong = write_creds("ann", account_seed), write_creds("bob", new_key(nkeys.PREFIX_BYTE_ACCOUNT)[0])
    access = f"operator: {operator_jwt}\nresolver: MEMORY\nresolver_preload: {{ {account}: {account_jwt} }}"
    with serve(tmp_path, access, stores=False) as url:
        await check(url, Login(creds=creds), Login(creds=wrong), "refused the login.*nats_creds")


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """A server that shows a certificate of its own authority and asks for one; and the folder of the certificates."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl, which makes the certificates, is not here")
    folder = tmp_path_factory.mktemp("tls")
    write_certificates(folder)
    files = f'cert_file: "{folder}/server.pem", key_file: "{folder}/server.key", ca_file: "{folder}/ca.pem"'
    with serve(folder, f"tls {{ {files}, verify: true }}") as url:
        yield url, folder


async def test_a_certificate_opens_the_server_that_asks_for_one(secured: tuple[str, Path]) -> None:
    url, folder = secured
    login = Login(ca=folder / "ca.pem", cert=folder / "client.pem", key=folder / "client.key")
    async with connect(BusSettings(url=url, login=login), name="test") as bus:
        assert bus.is_connected
    async with connect_client(url, login=login) as client:
        assert client.connection.is_connected


async def test_a_server_whose_certificate_nobody_trusts_is_refused(secured: tuple[str, Path]) -> None:
    url, folder = secured
    login = Login(cert=folder / "client.pem", key=folder / "client.key")
    with pytest.raises(SetupError, match=r"TLS with the NATS server.*failed.*nats_ca") as refusal:
        async with connect(BusSettings(url=url, login=login), name="test"):
            pass
    assert refusal.value.param == "nats_ca"


def test_a_file_of_the_login_that_is_wrong_is_named_with_its_setting(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("no seed, no certificate")
    missing = tmp_path / "missing"
    wrong = {
        "nats_nkey": (Login(nkey=text), Login(nkey=missing)),
        "nats_creds": (Login(creds=missing),),
        "nats_ca": (Login(ca=text), Login(ca=missing)),
        "nats_cert": (Login(cert=text), Login(cert=missing), Login(key=text)),
    }
    for setting, logins in wrong.items():
        for login in logins:
            with pytest.raises(SetupError, match=setting) as refusal:
                login.options()
            assert refusal.value.param == setting
            assert "no seed, no cert" not in refusal.value.message


@pytest.mark.parametrize("home", [None, "", " ", "/elsewhere"])
def test_the_default_data_folder_is_that_of_platformdirs(home: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client has it without that package."""
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    if home is not None:
        monkeypatch.setenv("XDG_DATA_HOME", home)
    assert default_data_dir() == Path(platformdirs.user_data_dir("micro-kiki", appauthor=False))
