"""Work that ends when its client disconnects."""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio
from starlette.types import Receive

from runtime.facade.errors import ClientGone

T = TypeVar("T")


async def run_while_connected(receive: Receive, work: Callable[[], Awaitable[T]]) -> T:
    """Run ``work`` and return its result; cancel it when the client leaves. The request's body must have been read.

    Raises:
        ClientGone: the client left first.
        Exception: whatever ``work`` raises, as it is.
    """
    results: list[T] = []
    errors: list[Exception] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_cancel_on_disconnect, receive, tasks.cancel_scope)
        try:
            results.append(await work())
        except Exception as error:  # noqa: BLE001 - raised below, outside of the group that would wrap it
            errors.append(error)
        tasks.cancel_scope.cancel()
    if errors:
        raise errors[0]
    if not results:
        raise ClientGone("the client left before its reply.")
    return results[0]


async def _cancel_on_disconnect(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
