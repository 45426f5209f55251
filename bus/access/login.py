"""With what a connection shows who it is: files for an nkey, for credentials and for TLS. Needs nats-py only.

User, password and token stand in the broker's URL (:mod:`bus.access.address`).
"""

import os
import re
import ssl
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bus.access.address import is_local, read_address
from schemas.errors import SetupError

OWNER = "owner"
"""The user of the embedded broker that the person of the machine is."""

INBOX = "_INBOX"
"""How the subjects of replies begin."""

_SUBJECT = re.compile(r"[\w@-]+(\.[\w@-]+)*", re.ASCII)


def tenant_inbox(tenant: str) -> str:
    """How the subjects begin on which a tenant's users get replies."""
    return f"{INBOX}.ask.{tenant}"


@dataclass(frozen=True, kw_only=True)
class Login:
    """The files of a connection's login; those that are None are not used.

    Attributes:
        nkey: a seed, as ``nk -gen user`` and ``kiki broker creds`` write it.
        creds: a user's JWT and seed, as ``nsc generate creds`` writes them.
        ca: certificates (PEM) by which the server's own is checked; None trusts those that the system trusts.
        cert: the client's certificate (PEM).
        key: the key of ``cert``; None when it is in the same file.
    """

    nkey: Path | None = None
    creds: Path | None = None
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    @property
    def inbox(self) -> str:
        """How the subjects begin on which the connection gets replies: of an nkey's user by the file's name.

        The users of an embedded broker hear no others.
        """
        return f"{INBOX}.{self.nkey.stem}" if self.nkey is not None and _SUBJECT.fullmatch(self.nkey.stem) else INBOX

    def options(self) -> dict[str, Any]:
        """The login as options of :func:`nats.connect`.

        Raises:
            SetupError: a file cannot be read or is not what it should be; ``param`` is its setting.
        """
        options: dict[str, Any] = {"inbox_prefix": self.inbox}
        if self.nkey is not None:
            options["nkeys_seed_str"] = _read_seed(self.nkey)
        if self.creds is not None:
            _read(self.creds, "nats_creds")
            options["user_credentials"] = str(self.creds)
        if (context := self._tls_context()) is not None:
            options["tls"] = context
        return options

    def _tls_context(self) -> ssl.SSLContext | None:
        if self.ca is None and self.cert is None:
            if self.key is not None:
                raise SetupError("nats_key needs nats_cert, the certificate that it belongs to.", param="nats_cert")
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca)
        except OSError as error:
            raise _unreadable("nats_ca", self.ca, error, "certificates in PEM") from error
        if self.cert is not None:
            try:
                context.load_cert_chain(self.cert, self.key)
            except OSError as error:
                files = f"{self.cert} with {self.key}" if self.key is not None else str(self.cert)
                raise _unreadable("nats_cert", files, error, "a certificate and its key in PEM") from error
        return context


NO_LOGIN = Login()
"""Shows nothing: the broker asks for nothing, or its URL has the login."""


def default_data_dir() -> Path:
    """Where the runtime of this machine's person keeps its data, if no setting says otherwise."""
    if sys.platform == "darwin":
        return Path("~/Library/Application Support/micro-kiki").expanduser()
    return Path(os.environ.get("XDG_DATA_HOME", "").strip() or "~/.local/share").expanduser() / "micro-kiki"


def seed_file(directory: Path, user: str) -> Path:
    """Where the seed of an embedded broker's user lies; ``directory`` is the broker's."""
    return directory / "users" / f"{user}.nk"


def find_login(url: str) -> Login:
    """The login of a program that was given none: the nkey of ``KIKI_NATS_NKEY``, else that of this machine's owner.

    The owner's is shown to a broker of this machine alone, whose ``url`` has no login, and if the program may read it.
    """
    if chosen := os.environ.get("KIKI_NATS_NKEY"):
        return Login(nkey=Path(chosen))
    directory = Path(os.environ.get("KIKI_DATA_DIR") or default_data_dir())
    path = seed_file(directory / "nats", OWNER)
    is_asked_for = not read_address(url).login and is_local(url) and os.access(path, os.R_OK)
    return Login(nkey=path) if is_asked_for else NO_LOGIN


def _read_seed(path: Path) -> str:
    import nkeys  # 10 ms, which a connection without an nkey does not need

    seed = _read(path, "nats_nkey").strip()
    try:
        nkeys.from_seed(bytearray(seed)).wipe()
    except (nkeys.NkeysError, ValueError) as error:
        raise SetupError(f"nats_nkey: {path} holds no seed: it begins with SU.", param="nats_nkey") from error
    return seed.decode()


def _read(path: Path, setting: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(setting, path, error, "a file of the user who runs this") from error


def _unreadable(setting: str, path: Path | str | None, error: OSError, expected: str) -> SetupError:
    reason = error.strerror or str(error)
    return SetupError(f"{setting}: {path} cannot be read ({reason}): expected {expected}.", param=setting)
