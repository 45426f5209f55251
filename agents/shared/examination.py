"""Asks the worker the retained set with adapters: a dream does (invariant S1), and the gates."""

from collections.abc import Sequence

import anyio

from agents.shared.retained import RetainedJudgement, RetainedQuestion, judgement_from_scores
from bus.connection import Bus
from schemas.chat import Message
from schemas.envelope import new_turn
from schemas.errors import KikiError, Unavailable
from schemas.findings import AdapterUse


async def examine(
    bus: Bus,
    questions: Sequence[RetainedQuestion],
    uses: tuple[AdapterUse, ...],
    *,
    tenant: str,
    timeout: float,
    at_once: int,
) -> RetainedJudgement:
    """Ask the questions with these adapters together, ``at_once`` at a time; ``timeout`` is in seconds for each
    question, and ``tenant`` who asks.

    Raises:
        KikiError: the worker cannot answer with it, or answers with other weights.
    """

    def digests(adapters: Sequence[AdapterUse]) -> list[tuple[str, str]]:
        return [(adapter.name, adapter.sha256) for adapter in adapters]

    scores_by_number: dict[int, dict[str, float]] = {}
    limiter = anyio.Semaphore(at_once)

    async def ask(number: int, question: RetainedQuestion) -> None:
        async with limiter:
            result = await bus.ask(
                new_turn(tenant=tenant, timeout=timeout),
                lane="background",
                messages=(Message(role="user", content=question.question),),
                adapters=uses,
                choices=question.choices,
            )
        if digests(result.adapters) != digests(uses):
            names = ", ".join(f"'{use.name}' {use.sha256[:12]}" for use in uses)
            raise Unavailable(f"the worker answered without {names}; try again.")
        (scores_by_number[number],) = result.scores

    try:
        async with anyio.create_task_group() as tasks:
            for number, question in enumerate(questions):
                tasks.start_soon(ask, number, question)
    except* KikiError as failures:
        raise _first_error(failures) from failures
    return judgement_from_scores(questions, [scores_by_number[number] for number in range(len(questions))])


def _first_error(group: BaseExceptionGroup[KikiError]) -> KikiError:
    """One of the errors that ended the group: the others have the same cause, or were cancelled."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, KikiError)
    return error
