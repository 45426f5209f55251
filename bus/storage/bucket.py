"""The object store, in which each object has its content's sha256 as its name. Needs nats-py only."""

import hashlib

from nats.js import JetStreamContext
from nats.js.api import StorageType
from nats.js.object_store import ObjectStore

from bus.errors import NOT_FOUND

KEEP_SECONDS = 7 * 86400.0
"""Seconds that an object stays."""


def bucket_name(prefix: str) -> str:
    """What the broker calls the object store."""
    return f"{prefix}-objects"


async def open_bucket(js: JetStreamContext, prefix: str, *, replicas: int = 1) -> ObjectStore:
    """The object store, which is made when it is missing."""
    try:
        return await js.object_store(bucket_name(prefix))
    except NOT_FOUND:
        return await js.create_object_store(
            bucket_name(prefix),
            description="Adapters on their way between services, and bodies of dead letters, by sha256",
            ttl=KEEP_SECONDS,
            storage=StorageType.FILE,
            replicas=replicas,
        )


async def put_object(store: ObjectStore, data: bytes) -> str:
    """Store the bytes, once however often they are put. Returns their sha256 in hexadecimal."""
    digest = hashlib.sha256(data).hexdigest()
    try:
        await store.get_info(digest)
    except NOT_FOUND:
        await store.put(digest, data)
    return digest
