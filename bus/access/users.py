"""The users of the embedded broker: a file with a seed for each, which only its owner reads, and the broker's list.

The broker's list has public keys and permissions, and no secret. A process shows that it is a user by signing what the
broker asks it to sign: nobody who listens in can repeat that.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

from bus.access.login import seed_file
from bus.access.permissions import Permissions
from schemas.errors import SetupError

LIST = "users.conf"
"""The broker's list of users, which its configuration includes."""


def write_users(directory: Path, users: Mapping[str, Permissions]) -> None:
    """Give every user a seed that has none, and write the broker's list: these users, and nobody else.

    Raises:
        SetupError: a seed's file holds none.
        OSError: the directory cannot be written.
    """
    make_private(seed_file(directory, "").parent)
    entries = [
        _format_user(_ensure_key(seed_file(directory, name)), permissions) for name, permissions in users.items()
    ]
    text = "authorization {\n  timeout: 5\n  users: [\n" + "\n".join(entries) + "\n  ]\n}\n"
    _write_private(directory / LIST, text)


def make_private(directory: Path) -> None:
    """Make the directory, and let nobody but its owner look into it."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    state = directory.stat()
    if state.st_mode & 0o077 and state.st_uid == os.geteuid():
        directory.chmod(0o700)


def _ensure_key(path: Path) -> str:
    """The public key of the seed in the file; a new seed, if there is no file."""
    import nkeys

    if not path.exists():
        _write_private(path, nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER).decode())
    try:
        return str(nkeys.from_seed(bytearray(path.read_bytes().strip())).public_key.decode())
    except (nkeys.NkeysError, ValueError) as error:
        raise SetupError(f"{path} holds no seed: remove it, and a new one is made.", param="data_dir") from error


def _write_private(path: Path, text: str) -> None:
    """Write a file that only its owner reads, whole or not at all: a full disk or a kill leave no half of it."""
    draft = path.with_name(f".{path.name}.new")
    draft.unlink(missing_ok=True)
    file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(file, "w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(file)
    draft.replace(path)


def _format_user(public_key: str, permissions: Permissions) -> str:
    def format_rule(allowed: object, denied: object) -> str:
        return f"{{ allow: {json.dumps(allowed)}, deny: {json.dumps(denied)} }}"

    publish = format_rule(list(permissions.publish), list(permissions.deny_publish))
    subscribe = format_rule(list(permissions.subscribe), list(permissions.deny_subscribe))
    return f"    {{ nkey: {public_key}, permissions: {{ publish: {publish}, subscribe: {subscribe} }} }}"
