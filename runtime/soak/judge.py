"""A small model of what a runtime promises, which a history and the record must fit. Pure: no bus, no clock.

Each rule gives violations, a line each. What the promises leave open is no violation: the turn of a client that went
away may be recorded or not, and a request may be refused, however often, in a way that lets the client try again.
"""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from runtime.soak.history import (
    AnswerGiven,
    AnyMoment,
    FaultHealed,
    Mark,
    QuestionAsked,
    RecordsConsumed,
    RequestAbandoned,
    RequestLost,
    RequestRefused,
    SessionForgotten,
    find_marks,
    read_answer,
)

QUIET_SECONDS = 30.0
"""Seconds without a fault after which a session's history must be whole."""


@dataclass(frozen=True)
class RecordedTurn:
    """What the record holds of a turn."""

    seq: int
    created_at: float
    turn_id: str
    tenant: str
    user: str
    session: str
    question: str
    answer: str


@dataclass(frozen=True)
class Remains:
    """What a runtime holds after the last fault.

    ``ends`` are the kinds of end that each turn has. ``disagreement`` says how the stores differ from the record, and
    is empty when they agree. ``letters`` are the reasons of the dead letters.
    """

    turns: Sequence[RecordedTurn]
    ends: Mapping[str, Sequence[str]] = field(default_factory=dict)
    disagreement: str = ""
    letters: Sequence[str] = ()


class _Reading:
    """The history, looked up by mark and by session."""

    def __init__(self, moments: Sequence[AnyMoment]) -> None:
        self.asked: dict[str, QuestionAsked] = {}
        self.answers: defaultdict[str, list[AnswerGiven]] = defaultdict(list)
        self.abandoned: set[str] = set()
        self.refusals: list[RequestRefused] = []
        self.lost: list[RequestLost] = []
        self.forgotten: dict[tuple[str, str, str], float] = {}
        self.consumed: list[int] = []
        self.faults: list[tuple[float, float]] = []
        for moment in moments:
            match moment:
                case QuestionAsked():
                    self.asked[moment.mark] = moment
                case AnswerGiven():
                    self.answers[moment.mark].append(moment)
                case RequestAbandoned():
                    self.abandoned.add(moment.mark)
                case RequestRefused():
                    self.refusals.append(moment)
                case RequestLost():
                    self.lost.append(moment)
                case SessionForgotten():
                    self.forgotten[moment.tenant, moment.user, moment.session] = moment.at
                case RecordsConsumed():
                    self.consumed += moment.ids
                case FaultHealed():
                    self.faults.append((moment.began, moment.at))

    def session_of(self, mark: Mark) -> tuple[str, str, str] | None:
        """Tenant, user and session of a question; None when nobody asked it or it has no session."""
        question = self.asked.get(str(mark))
        return None if question is None or not question.session else (mark.tenant, mark.user, question.session)

    def find_forgetting(self, mark: Mark) -> float:
        """When the question's session was forgotten; infinity when it was not."""
        session = self.session_of(mark)
        return float("inf") if session is None else self.forgotten.get(session, float("inf"))

    def is_quiet(self, since: float, until: float) -> bool:
        """Whether nothing was broken in that time, nor shortly before."""
        return not any(began <= until and since <= ended + QUIET_SECONDS for began, ended in self.faults)


def judge(moments: Sequence[AnyMoment], remains: Remains) -> list[str]:
    """The violations, a line each, in the order of the rules."""
    reader = _Reading(moments)
    by_mark: defaultdict[str, list[RecordedTurn]] = defaultdict(list)
    for turn in remains.turns:
        by_mark[next(map(str, find_marks(turn.question)), "")].append(turn)
    return [
        *_check_silence(reader),
        *_check_refusals(reader),
        *_check_repetition(reader),
        *_check_record(reader, by_mark),
        *_check_ghosts(reader, by_mark),
        *_check_ends(remains),
        *_check_order(reader, by_mark),
        *_check_history(reader),
        *_check_owners(reader),
        *_check_consumption(reader, remains),
        *([f"the stores differ from the record: {remains.disagreement}"] if remains.disagreement else []),
        *(f"dead letter: {reason}" for reason in remains.letters),
    ]


def _check_silence(reader: _Reading) -> Iterator[str]:
    """Each request ends in time, and each question is answered at last, unless its client went away."""
    for loss in reader.lost:
        if loss.silent:
            yield f"{loss.mark}: silent for {loss.seconds:.0f} s ({loss.error})"
    for mark in reader.asked.keys() - reader.answers.keys() - reader.abandoned:
        yield f"{mark}: never answered"


def _check_refusals(reader: _Reading) -> Iterator[str]:
    """A good request is refused only for now."""
    for refusal in reader.refusals:
        if not refusal.retryable:
            yield f"{refusal.mark}: refused for good, {refusal.status} {refusal.code}: {refusal.message}"


def _check_repetition(reader: _Reading) -> Iterator[str]:
    """A question that is asked again with its key has one turn and one answer."""
    for mark, answers in reader.answers.items():
        if len({(answer.turn_id, answer.text) for answer in answers}) > 1:
            yield f"{mark}: two answers, of {', '.join(sorted({answer.turn_id for answer in answers}))}"


def _check_record(reader: _Reading, by_mark: Mapping[str, Sequence[RecordedTurn]]) -> Iterator[str]:
    """What was answered is recorded once, with its owner, its session and the answer that the client got."""
    for name, answers in reader.answers.items():
        (mark,) = find_marks(name)
        turns = by_mark.get(name, ())
        if reader.find_forgetting(mark) < float("inf"):
            if turns:
                yield f"{name}: recorded, though its session is forgotten"
            continue
        if len(turns) != 1:
            yield f"{name}: answered by {answers[0].turn_id}, recorded {len(turns)} times"
            continue
        (turn,) = turns
        session = reader.asked[name].session
        if (turn.tenant, turn.user) != (mark.tenant, mark.user) or (session and turn.session != session):
            yield f"{name}: recorded as {turn.tenant}'s {turn.user}'s, session {turn.session}"
        if (turn.turn_id, turn.answer) != (answers[0].turn_id, answers[0].text):
            yield f"{name}: the record has turn {turn.turn_id} with another answer than {answers[0].turn_id}'s"


def _check_ghosts(reader: _Reading, by_mark: Mapping[str, Sequence[RecordedTurn]]) -> Iterator[str]:
    """Nothing is recorded that nobody asked, and nothing twice that nobody got."""
    for mark, turns in by_mark.items():
        if mark not in reader.asked:
            yield f"ghost: {turns[0].turn_id} is recorded, and nobody asked {turns[0].question[:80]!r}"
        elif len(turns) > 1 and mark not in reader.answers:
            yield f"{mark}: abandoned, recorded {len(turns)} times"


def _check_ends(remains: Remains) -> Iterator[str]:
    for turn_id, kinds in remains.ends.items():
        if len(kinds) > 1:
            yield f"turn {turn_id} ended {len(kinds)} times: {', '.join(kinds)}"


def _check_order(reader: _Reading, by_mark: Mapping[str, Sequence[RecordedTurn]]) -> Iterator[str]:
    """A session's questions, each asked after the last one's answer, have times in that order: the memory reads by
    them. Their places in the record need not be in order, as what a dead memory had in hand comes again later."""
    sessions: defaultdict[tuple[str, str, str], list[tuple[int, float]]] = defaultdict(list)
    for name in reader.answers:
        (mark,) = find_marks(name)
        session = reader.session_of(mark)
        if session is not None and len(by_mark.get(name, ())) == 1:
            sessions[session].append((mark.number, by_mark[name][0].created_at))
    for session, places in sessions.items():
        times = [at for _, at in sorted(places)]
        if times != sorted(times):
            yield f"session {session}: recorded out of order, times {times}"


def _check_history(reader: _Reading) -> Iterator[str]:
    """What the worker read of a session: answered turns in order, each once, and in quiet up to the last one."""
    before: defaultdict[tuple[str, str, str], list[Mark]] = defaultdict(list)
    for name in sorted(reader.answers):
        (mark,) = find_marks(name)
        session, answer = reader.session_of(mark), reader.answers[name][0]
        if session is None:
            continue
        reading = read_answer(answer.text)
        if reading is None:
            yield f"{name}: not the worker's answer: {answer.text[:120]!r}"
            continue
        read, earlier = list(reading[0]), before[session]
        if read != [known for known in earlier if known in read]:
            yield f"{name}: read the session as {' '.join(map(str, read))}, which was {' '.join(map(str, earlier))}"
        elif reader.is_quiet(reader.asked[name].at, answer.at) and read != earlier[len(earlier) - max(1, len(read)) :]:
            yield f"{name}: read {len(read)} turns of its session and not the last of {len(earlier)}"
        earlier.append(mark)


def _check_owners(reader: _Reading) -> Iterator[str]:
    """No word of another owner, nor of what was forgotten, reached the worker."""
    for name, answers in reader.answers.items():
        (mark,) = find_marks(name)
        question = reader.asked[name]
        for seen in {seen for answer in answers for part in read_answer(answer.text) or () for seen in part}:
            if (seen.tenant, seen.user) != (mark.tenant, mark.user):
                yield f"{name}: was shown {seen}, of another owner"
            elif reader.find_forgetting(seen) < question.at:
                yield f"{name}: was shown {seen}, of a forgotten session"


def _check_consumption(reader: _Reading, remains: Remains) -> Iterator[str]:
    """A registered service consumes each record once and in order."""
    if reader.consumed != sorted(set(reader.consumed)):
        places = [second for first, second in pairwise(reader.consumed) if second <= first]
        yield f"a service consumed records out of order, or twice: {places[:10]}"
    if reader.consumed and (missed := {turn.seq for turn in remains.turns} - set(reader.consumed)):
        yield f"a service never got the records {sorted(missed)[:10]}"


def count_moments(moments: Sequence[AnyMoment]) -> Mapping[str, int]:
    """Figures of a history: how many questions, answers, refusals by code, losses, and faults by name."""
    reader, counts = _Reading(moments), Counter[str]()
    counts["asked"] = len(reader.asked)
    counts["answered"] = len(reader.answers)
    counts["answered again"] = sum(len(answers) - 1 for answers in reader.answers.values())
    counts["abandoned"] = len(reader.abandoned)
    counts["sessions forgotten"] = len(reader.forgotten)
    counts["records consumed by a service"] = len(reader.consumed)
    counts["connections lost"] = len(reader.lost)
    counts.update(f"refused: {refusal.code}" for refusal in reader.refusals)
    counts.update(f"fault: {moment.name}" for moment in moments if isinstance(moment, FaultHealed))
    return counts
