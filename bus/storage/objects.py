"""Bytes that are too large for a message, stored in the broker under their own sha256.

An object is named by its content's digest, so it never changes, and storing it twice is the same as storing it once.
The broker drops objects after :data:`KEEP_SECONDS` seconds.
"""

import hashlib
from contextlib import suppress

import anyio
from nats.js.api import StorageType
from nats.js.object_store import ObjectStore

from bus.connection import Bus
from bus.errors import NOT_FOUND, translate_errors
from schemas.errors import InvalidInput

KEEP_SECONDS = 7 * 86400.0
"""Seconds that an object stays."""

TIMEOUT = 60.0
"""Seconds that storing or reading one object may take."""


async def put(bus: Bus, data: bytes) -> str:
    """Store ``data``. Returns its sha256 in hexadecimal.

    Raises:
        Unavailable: the broker is away or full.
    """
    digest = hashlib.sha256(data).hexdigest()
    with translate_errors(f"object {digest[:12]} was not stored"), anyio.fail_after(TIMEOUT):
        store = await _open_store(bus)
        try:
            await store.get_info(digest)
        except NOT_FOUND:
            await store.put(digest, data)
    return digest


async def get(bus: Bus, digest: str, *, param: str = "sha256") -> bytes:
    """The bytes whose sha256 is ``digest``.

    ``param`` is the field of the caller's request that holds the digest; an error names it.

    Raises:
        InvalidInput: there is no such object (any more), or its bytes have another digest.
        Unavailable: the broker is away.
    """
    with translate_errors(f"object {digest[:12]} cannot be read"), anyio.fail_after(TIMEOUT):
        store = await _open_store(bus)
        try:
            data: bytes = (await store.get(digest)).data or b""
        except NOT_FOUND as error:
            why = f"there is no object {digest[:12]}: put it into the object store first."
            raise InvalidInput(why, param=param) from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise InvalidInput(f"object {digest[:12]} holds other bytes than its name says.", param=param)
    return data


async def delete(bus: Bus, digest: str) -> None:
    """Delete the object, if it is there; the broker overwrites its bytes, as its own deletion of objects does not.

    Raises:
        Unavailable: the broker is away.
    """
    stream = f"OBJ_{bucket(bus)}"
    with translate_errors(f"object {digest[:12]} was not deleted"), anyio.fail_after(TIMEOUT), suppress(NOT_FOUND):
        store = await _open_store(bus)
        chunks = f"$O.{bucket(bus)}.C.{(await store.get_info(digest)).nuid}"
        with suppress(NOT_FOUND):
            while True:
                await bus.js.delete_msg(stream, (await bus.js.get_last_msg(stream, chunks)).seq)
        await store.delete(digest)


def bucket(bus: Bus) -> str:
    """The name of the object store."""
    return f"{bus.subjects.prefix}-objects"


async def _open_store(bus: Bus) -> ObjectStore:
    try:
        return await bus.js.object_store(bucket(bus))
    except NOT_FOUND:
        return await bus.js.create_object_store(
            bucket(bus),
            description="Adapters on their way between services, and bodies of dead letters, by sha256",
            ttl=KEEP_SECONDS,
            storage=StorageType.FILE,
            replicas=bus.settings.replicas,
        )
