"""Nats-servers that ask for an nkey, a JWT or a certificate, and the files that open them."""

import base64
import hashlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nkeys

from bus.broker import find_executable
from tests.e2e.conftest import free_port

HOST = "127.0.0.1"


@contextmanager
def serve(folder: Path, access: str, *, stores: bool = True) -> Iterator[str]:
    """The address of a nats-server with ``access`` in its configuration, and with JetStream if it ``stores``."""
    port, config = free_port(), folder / "nats.conf"
    store = f'jetstream {{ store_dir: "{folder}/jetstream" }}\n' if stores else ""
    config.write_text(f'listen: "{HOST}:{port}"\nports_file_dir: "{folder}"\n{store}{access}\n')
    with subprocess.Popen([find_executable(), "-c", str(config)], stderr=subprocess.DEVNULL) as server:
        try:
            while not list(folder.glob("*.ports")):
                assert server.poll() is None, config.read_text()
                time.sleep(0.01)
            yield f"nats://{HOST}:{port}"
        finally:
            server.terminate()


def new_key(prefix: bytes = nkeys.PREFIX_BYTE_USER) -> tuple[str, str]:
    """A new seed and its public key."""
    pair = nkeys.from_seed(bytearray(nkeys.encode_seed(os.urandom(32), prefix)))
    return pair.seed.decode(), pair.public_key.decode()


def sign_jwt(seed: str, subject: str, name: str, claims: dict[str, Any]) -> str:
    """A JWT as NATS wants it: https://docs.nats.io/running-a-nats-service/nats_admin/security/jwt."""
    pair = nkeys.from_seed(bytearray(seed.encode()))
    body: dict[str, Any] = {
        "jti": "",
        "iat": int(time.time()),
        "iss": pair.public_key.decode(),
        "name": name,
        "sub": subject,
        "nats": {**claims, "version": 2},
    }
    body["jti"] = base64.b32encode(hashlib.sha256(json.dumps(body).encode()).digest()).decode().rstrip("=")
    text = ".".join(_base64(json.dumps(part).encode()) for part in ({"typ": "JWT", "alg": "ed25519-nkey"}, body))
    return f"{text}.{_base64(pair.sign(text.encode()))}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def write_certificates(folder: Path) -> None:
    """``ca.pem``, and certificates and keys of it for the server at :data:`HOST` and for a client."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=tests", "-days", "2")
    (folder / "names").write_text(f"subjectAltName=IP:{HOST}\n")
    for name in ("server", "client"):
        openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signing = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names", "-days", "2")
        openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signing)
