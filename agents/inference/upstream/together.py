"""Runs several calls at once; the first error cancels the others."""

from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import anyio

from schemas.errors import KikiError

T = TypeVar("T")


async def run_together(calls: Sequence[Callable[[], Awaitable[T]]]) -> list[T]:
    """Run all calls at once; their results, in order.

    Raises:
        KikiError: the first error of a call.
    """
    results: dict[int, T] = {}
    failures: list[KikiError] = []

    async def run(index: int) -> None:
        try:
            results[index] = await calls[index]()
        except KikiError as error:
            failures.append(error)
            tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        for index in range(len(calls)):
            tasks.start_soon(run, index)
    if failures:
        raise failures[0]
    return [results[index] for index in range(len(calls))]
