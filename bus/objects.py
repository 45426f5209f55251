"""Bytes that are too large for a message, kept in the broker under their own sha256.

An object is named by its content's digest, so it never changes, and storing it twice is the same as storing it once.
Objects are dropped after :data:`KEPT` seconds.
"""

import hashlib

import anyio
import nats.errors
from nats.js.api import StorageType
from nats.js.errors import APIError, BucketNotFoundError, Error, NotFoundError
from nats.js.object_store import ObjectStore

from bus.connection import Bus
from schemas.errors import InvalidInput, Unavailable

KEEP_SECONDS = 7 * 86400.0
"""Seconds that an object stays."""

TIMEOUT = 60.0
"""Seconds that storing or reading one object may take."""


async def put(bus: Bus, data: bytes) -> str:
    """Keep ``data``. Returns its sha256 in hexadecimal.

    Raises:
        Unavailable: the broker is away or full.
    """
    digest = hashlib.sha256(data).hexdigest()
    try:
        with anyio.fail_after(TIMEOUT):
            store = await _open_store(bus)
            try:
                await store.get_info(digest)
            except NotFoundError:
                await store.put(digest, data)
    except (TimeoutError, nats.errors.Error, APIError, Error) as error:
        raise Unavailable(f"object {digest[:12]} was not stored: {error or type(error).__name__}.") from error
    return digest


async def get(bus: Bus, digest: str, *, param: str = "sha256") -> bytes:
    """The bytes whose sha256 is ``digest``. ``param`` is the asker's field that names it.

    Raises:
        InvalidInput: there is no such object (any more).
        Unavailable: the broker is away.
    """
    try:
        with anyio.fail_after(TIMEOUT):
            data: bytes = (await (await _open_store(bus)).get(digest)).data or b""
    except NotFoundError as error:
        why = f"there is no object {digest[:12]}: put it into the object store first."
        raise InvalidInput(why, param=param) from error
    except (TimeoutError, nats.errors.Error, APIError, Error) as error:
        raise Unavailable(f"object {digest[:12]} cannot be read: {error or type(error).__name__}.") from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise InvalidInput(f"object {digest[:12]} holds other bytes than its name says.", param=param)
    return data


def bucket(bus: Bus) -> str:
    """The name of the object store."""
    return f"{bus.subjects.prefix}-objects"


async def _open_store(bus: Bus) -> ObjectStore:
    try:
        return await bus.js.object_store(bucket(bus))
    except BucketNotFoundError:
        return await bus.js.create_object_store(
            bucket(bus),
            description="Adapters on their way between services, by sha256",
            ttl=KEEP_SECONDS,
            storage=StorageType.FILE,
            replicas=bus.settings.replicas,
        )
