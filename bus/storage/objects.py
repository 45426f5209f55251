"""Bytes that are too large for a message, stored in the broker under their own sha256.

An object is named by its content's digest, so it never changes, and storing it twice is the same as storing it once.
The broker drops objects after :data:`bus.storage.bucket.KEEP_SECONDS` seconds.
"""

import hashlib
from contextlib import suppress

import anyio
from nats.js.object_store import ObjectStore

from bus.connection import Bus
from bus.errors import NOT_FOUND, translate_errors
from bus.storage.bucket import bucket_name, open_bucket, put_object
from schemas.errors import InvalidInput

TIMEOUT = 60.0
"""Seconds that storing or reading one object may take."""


async def put(bus: Bus, data: bytes) -> str:
    """Store ``data``. Returns its sha256 in hexadecimal.

    Raises:
        Unavailable: the broker is away or full.
    """
    with translate_errors("an object was not stored"), anyio.fail_after(TIMEOUT):
        return await put_object(await _open(bus), data)


async def get(bus: Bus, digest: str, *, param: str = "sha256") -> bytes:
    """The bytes whose sha256 is ``digest``.

    ``param`` is the field of the caller's request that holds the digest; an error names it.

    Raises:
        InvalidInput: there is no such object (any more), or its bytes have another digest.
        Unavailable: the broker is away.
    """
    with translate_errors(f"object {digest[:12]} cannot be read"), anyio.fail_after(TIMEOUT):
        store = await _open(bus)
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
    bucket = bucket_name(bus.subjects.prefix)
    stream = f"OBJ_{bucket}"
    with translate_errors(f"object {digest[:12]} was not deleted"), anyio.fail_after(TIMEOUT), suppress(NOT_FOUND):
        store = await _open(bus)
        chunks = f"$O.{bucket}.C.{(await store.get_info(digest)).nuid}"
        with suppress(NOT_FOUND):
            while True:
                await bus.js.delete_msg(stream, (await bus.js.get_last_msg(stream, chunks)).seq)
        await store.delete(digest)


async def _open(bus: Bus) -> ObjectStore:
    return await open_bucket(bus.js, bus.subjects.prefix, replicas=bus.settings.replicas)
