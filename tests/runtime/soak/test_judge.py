"""Each rule of the judge: a run without fault fits it, and one step away from that run is named."""

from collections.abc import Sequence
from dataclasses import replace

import msgspec
import pytest

from runtime.soak.history import (
    AnswerGiven,
    AnyMoment,
    FaultHealed,
    QuestionAsked,
    RecordsConsumed,
    RequestAbandoned,
    RequestLost,
    RequestRefused,
    SessionForgotten,
    write_answer,
)
from runtime.soak.judge import QUIET_SECONDS, RecordedTurn, Remains, count_moments, judge

FIRST, SECOND, LONE, OTHER = "m-ada-u0-000000", "m-ada-u0-000001", "m-ada-u0-000002", "m-bob-u1-000000"
SESSION = "s-u0-0"


def question(mark: str) -> str:
    """A question of the soak."""
    return f"Please keep {mark}: kettle"


def answered(at: float, mark: str, *, history: Sequence[str] = (), recalled: Sequence[str] = ()) -> AnswerGiven:
    """The worker's answer."""
    text = write_answer(question(mark), [question(other) for other in history], [question(other) for other in recalled])
    return AnswerGiven(at=at, mark=mark, turn_id=f"turn-{mark}", text=text, seconds=0.5)


MOMENTS: list[AnyMoment] = [
    QuestionAsked(at=1.0, mark=FIRST, session=SESSION),
    answered(2.0, FIRST),
    QuestionAsked(at=3.0, mark=SECOND, session=SESSION),
    answered(4.0, SECOND, history=[FIRST], recalled=[FIRST]),
    QuestionAsked(at=5.0, mark=OTHER, session=""),
    RequestRefused(at=5.5, mark=OTHER, status=503, code="unavailable", message="", retryable=True, seconds=0.1),
    RequestLost(at=5.6, mark=OTHER, error="ReadError", silent=False, seconds=0.1),
    answered(6.0, OTHER),
    QuestionAsked(at=7.0, mark=LONE, session=""),
    RequestAbandoned(at=7.5, mark=LONE),
    RecordsConsumed(at=8.0, ids=(1, 2, 3)),
]


def recorded(seq: int, answer: AnswerGiven, session: str) -> RecordedTurn:
    """What the record has of an answer."""
    _, tenant, user, _ = answer.mark.split("-")
    return RecordedTurn(seq, float(seq), answer.turn_id, tenant, user, session, question(answer.mark), answer.text)


def answer_of(mark: str) -> AnswerGiven:
    """The answer to a question of the run."""
    return next(moment for moment in MOMENTS if isinstance(moment, AnswerGiven) and moment.mark == mark)


TURNS = (
    recorded(1, answer_of(FIRST), SESSION),
    recorded(2, answer_of(SECOND), SESSION),
    recorded(3, answer_of(OTHER), "unnamed"),
)
REMAINS = Remains(TURNS, {"turn-1": ("answer.ready",), "turn-2": ("turn.cancelled",)})


def changed(mark: str, **fields: object) -> list[AnyMoment]:
    """The run with another answer to one question."""
    answer = answer_of(mark)
    return [msgspec.structs.replace(answer, **fields) if moment is answer else moment for moment in MOMENTS]


def test_a_run_that_keeps_every_promise_has_no_violations() -> None:
    assert judge(MOMENTS, REMAINS) == []


def test_an_abandoned_turn_may_be_recorded() -> None:
    lone = recorded(4, answered(8.0, LONE), "unnamed")
    moments = [*MOMENTS, RecordsConsumed(at=9.0, ids=(4,))]
    assert judge(moments, replace(REMAINS, turns=(*TURNS, lone))) == []
    assert judge(moments, replace(REMAINS, turns=(*TURNS, lone, lone))) == [f"{LONE}: abandoned, recorded 2 times"]


BROKEN: dict[str, tuple[Sequence[AnyMoment], Remains, str]] = {
    "silent": (
        [*MOMENTS, RequestLost(at=9.0, mark=OTHER, error="ReadTimeout", silent=True, seconds=120.0)],
        REMAINS,
        f"{OTHER}: silent for 120 s (ReadTimeout)",
    ),
    "unanswered": ([*MOMENTS, QuestionAsked(at=9.0, mark="m-ada-u0-000003", session="")], REMAINS, "never answered"),
    "refused": (
        [
            *MOMENTS,
            RequestRefused(
                at=9.0, mark=OTHER, status=500, code="internal_error", message="oh", retryable=False, seconds=0.1
            ),
        ],
        REMAINS,
        f"{OTHER}: refused for good, 500 internal_error: oh",
    ),
    "answered-twice": (
        [*MOMENTS, msgspec.structs.replace(answer_of(OTHER), turn_id="another")],
        REMAINS,
        f"{OTHER}: two answers, of another, turn-{OTHER}",
    ),
    "not-recorded": (
        MOMENTS,
        replace(REMAINS, turns=TURNS[:2]),
        f"{OTHER}: answered by turn-{OTHER}, recorded 0 times",
    ),
    "recorded-twice": (
        MOMENTS,
        replace(REMAINS, turns=(*TURNS, TURNS[2])),
        f"{OTHER}: answered by turn-{OTHER}, recorded 2 times",
    ),
    "of-another": (
        MOMENTS,
        replace(REMAINS, turns=(*TURNS[:2], replace(TURNS[2], user="u0"))),
        f"{OTHER}: recorded as bob's u0's",
    ),
    "in-another-session": (
        MOMENTS,
        replace(REMAINS, turns=(replace(TURNS[0], session="s-u0-9"), *TURNS[1:])),
        f"{FIRST}: recorded as ada's u0's, session s-u0-9",
    ),
    "with-another-answer": (
        MOMENTS,
        replace(REMAINS, turns=(*TURNS[:2], replace(TURNS[2], answer="Kept nothing."))),
        f"{OTHER}: the record has turn turn-{OTHER} with another answer",
    ),
    "ghost": (
        MOMENTS,
        replace(REMAINS, turns=(*TURNS, replace(TURNS[2], turn_id="t", question="Please keep m-ada-u0-000099: x"))),
        "ghost: t is recorded, and nobody asked 'Please keep m-ada-u0-000099: x'",
    ),
    "ended-twice": (
        MOMENTS,
        replace(REMAINS, ends={"turn-1": ("answer.ready", "turn.failed")}),
        "turn turn-1 ended 2 times: answer.ready, turn.failed",
    ),
    "out-of-order": (
        MOMENTS,
        replace(REMAINS, turns=(replace(TURNS[0], created_at=5.0), *TURNS[1:])),
        f"session ('ada', 'u0', '{SESSION}'): recorded out of order, times [5.0, 2.0]",
    ),
    "read-twice": (
        changed(SECOND, text=answered(4.0, SECOND, history=[FIRST, FIRST]).text),
        REMAINS,
        f"{SECOND}: read the session as {FIRST} {FIRST}",
    ),
    "not-read": (
        changed(SECOND, text=answered(4.0, SECOND).text),
        REMAINS,
        f"{SECOND}: read 0 turns of its session and not the last of 1",
    ),
    "no-answer": (changed(FIRST, text="Kept"), REMAINS, f"{FIRST}: not the worker's answer: 'Kept'"),
    "shown": (
        changed(OTHER, text=answered(6.0, OTHER, recalled=[FIRST]).text),
        REMAINS,
        f"{OTHER}: was shown {FIRST}, of another owner",
    ),
    "consumed-twice": (
        [*MOMENTS, RecordsConsumed(at=9.0, ids=(3, 4))],
        REMAINS,
        "a service consumed records out of order, or twice: [3]",
    ),
    "not-consumed": (
        [moment for moment in MOMENTS if not isinstance(moment, RecordsConsumed)]
        + [RecordsConsumed(at=9.0, ids=(1, 3))],
        REMAINS,
        "a service never got the records [2]",
    ),
    "stores": (MOMENTS, replace(REMAINS, disagreement="one is missing"), "the stores differ from the record: one is"),
    "letter": (MOMENTS, replace(REMAINS, letters=("kiki.answer.ready.x",)), "dead letter: kiki.answer.ready.x"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_promise_is_named(name: str) -> None:
    moments, remains, violation = BROKEN[name]
    assert any(violation in line for line in judge(moments, remains)), judge(moments, remains)


def test_a_turn_that_the_session_lacks_just_after_a_fault_is_no_violation() -> None:
    moments = changed(SECOND, text=answered(4.0, SECOND).text)
    remains = replace(REMAINS, turns=(*TURNS[:1], replace(TURNS[1], answer=answered(4.0, SECOND).text), TURNS[2]))
    fault = FaultHealed(at=3.0 - QUIET_SECONDS / 2, began=-QUIET_SECONDS, name="kill", detail="memory")
    assert judge([fault, *moments], remains) == []
    assert len(judge([msgspec.structs.replace(fault, at=2.0 - QUIET_SECONDS), *moments], remains)) == 1


def test_a_forgotten_session_is_neither_recorded_nor_shown() -> None:
    forgotten = SessionForgotten(at=8.0, tenant="ada", user="u0", session=SESSION)
    late = answered(10.0, "m-ada-u0-000003", recalled=[FIRST])
    consumed = RecordsConsumed(at=11.0, ids=(4,))
    moments = [*MOMENTS, forgotten, QuestionAsked(at=9.0, mark=late.mark, session=""), late, consumed]
    kept = replace(REMAINS, turns=(TURNS[2], recorded(4, late, "unnamed")))
    assert judge(moments, kept) == [f"{late.mark}: was shown {FIRST}, of a forgotten session"]
    assert judge([*MOMENTS, forgotten], REMAINS) == [
        f"{mark}: recorded, though its session is forgotten" for mark in (FIRST, SECOND)
    ]


def test_figures_count_what_happened() -> None:
    fault = FaultHealed(at=3.0, began=2.5, name="kill", detail="memory")
    counts = count_moments([*MOMENTS, fault])
    assert (counts["asked"], counts["answered"], counts["abandoned"], counts["fault: kill"]) == (4, 3, 1, 1)
    assert (counts["refused: unavailable"], counts["connections lost"]) == (1, 1)
