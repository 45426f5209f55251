"""Variants of the cognition: each answers checkable questions, and its answers are scored.

A variant is a level, a number of candidates and settings of agents. Every question is asked for a tenant of its own, so
that nothing is recalled from another. Answers are kept as JSON lines, so that a run can be continued.
"""

import statistics
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import msgspec

from bus.connection import Bus
from runtime.bench.intervals import bootstrap_interval, wilson_interval
from runtime.bench.questions import CheckableQuestion
from schemas.chat import Message, Sampling
from schemas.envelope import new_turn
from schemas.events import AnswerReady, QueryReceived
from schemas.findings import Level, Query

TIMEOUT = 300.0
"""Seconds that one question may take, waiting for the others included."""

EXAMPLES = (
    ("What is the capital of Austria?", "Vienna"),
    ("What is 1 + 1?", "2"),
    ("How many metres are in 4 kilometres?", "4000"),
    ("What does print(6 + 1) show in Python?", "7"),
    ('Write a JSON object with the key "k" and the value 5. Only JSON.', '{"k": 5}'),
)
"""The exchanges before every question: they show that only the result is asked for, and in which form."""

NEVER = 10**15
"""More weights than any model has: a threshold that turns votes or objections off."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A way to answer; ``agents`` overrides settings of agents, by agent and name."""

    name: str
    level: Level
    candidates: int | None
    description: str
    agents: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


_VOTES: dict[str, Any] = {"vote_from": 0}
_DISSENT: dict[str, Any] = {"engage_from": 0}
_QUIET: dict[str, Any] = {"engage_from": NEVER}

VARIANTS: tuple[Variant, ...] = (
    Variant(name="raw", level="raw", candidates=1, description="one candidate, no memory, nothing judged"),
    Variant(name="single", level="full", candidates=1, description="one candidate through all stages"),
    Variant(
        name="self-consistency",
        level="full",
        candidates=3,
        description="what most of three candidates say; no votes, no dissent",
        agents={"negotiator": {"vote_from": NEVER}, "catfish": _QUIET},
    ),
    Variant(name="full", level="full", candidates=3, description="as it is shipped"),
    Variant(
        name="first of a split",
        level="full",
        candidates=3,
        description="as it is shipped; where nobody agrees or votes, the first candidate",
        agents={"negotiator": {"when_split": "first"}},
    ),
    Variant(
        name="likeliest of a split",
        level="full",
        candidates=3,
        description="as it is shipped; where nobody agrees or votes, the likeliest candidate",
        agents={"negotiator": {"when_split": "likeliest"}},
    ),
    Variant(
        name="everything",
        level="full",
        candidates=3,
        description="votes, dissent, arbitration and its debiasing at any size",
        agents={"negotiator": _VOTES, "catfish": _DISSENT},
    ),
    Variant(
        name="without dissent",
        level="full",
        candidates=3,
        description="everything but the catfish",
        agents={"negotiator": _VOTES, "catfish": _QUIET},
    ),
    Variant(
        name="without debias",
        level="full",
        candidates=3,
        description="everything, but the judge is not told of its biases",
        agents={"negotiator": {**_VOTES, "debias": False}, "catfish": _DISSENT},
    ),
    Variant(
        name="without early end",
        level="full",
        candidates=3,
        description="everything, and a vote unless all candidates agree",
        agents={"negotiator": {**_VOTES, "strong_agreement": 1.0}, "catfish": _DISSENT},
    ),
)


class VariantAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """One question answered. Seconds; ``compute`` is embedding and model time of all stages."""

    id: str
    kind: str
    right: bool
    text: str
    seconds: float
    compute: float
    tokens: int
    outcome: str
    rounds: int
    objected: bool
    arbitrated: bool
    biases: tuple[str, ...]
    changed: bool


async def ask(bus: Bus, question: CheckableQuestion, variant: Variant, *, max_tokens: int) -> VariantAnswer:
    """Ask ``question`` as one turn of ``variant``.

    Raises:
        KikiError: the turn failed.
    """
    envelope = new_turn(tenant=f"bench-{uuid.uuid4().hex}", timeout=TIMEOUT)
    query = Query(
        model="micro-kiki-base" if variant.level == "raw" else "micro-kiki",
        messages=(*_example_messages(), Message(role="user", content=question.question)),
        sampling=Sampling(max_tokens=max_tokens, seed=7),
        level=variant.level,
        candidates=variant.candidates,
    )
    started = time.perf_counter()
    event = await bus.publish_and_wait(QueryReceived(envelope=envelope, query=query))
    return _variant_answer(question, event, time.perf_counter() - started)


def _example_messages() -> tuple[Message, ...]:
    pairs = [
        (Message(role="user", content=prompt), Message(role="assistant", content=reply)) for prompt, reply in EXAMPLES
    ]
    return tuple(message for pair in pairs for message in pair)


def _variant_answer(question: CheckableQuestion, event: AnswerReady, seconds: float) -> VariantAnswer:
    negotiation = event.negotiation
    arbitration = negotiation.arbitration
    return VariantAnswer(
        id=question.id,
        kind=question.kind,
        right=question.is_right(event.text),
        text=event.text,
        seconds=seconds,
        compute=sum(timing.compute for timing in event.timings),
        tokens=event.usage.total_tokens,
        outcome=negotiation.outcome,
        rounds=negotiation.rounds,
        objected=negotiation.dissent is not None and negotiation.dissent.engaged,
        arbitrated=arbitration is not None,
        biases=tuple(finding.bias for finding in arbitration.findings) if arbitration is not None else (),
        changed=arbitration is not None and arbitration.changed,
    )


class Ledger:
    """The answers of one variant in a file of JSON lines; those that are there already are not asked again."""

    def __init__(self, path: Path) -> None:
        self._path = path
        lines = path.read_bytes().splitlines() if path.exists() else []
        self.answers = {
            answer.id: answer for answer in (msgspec.json.decode(line, type=VariantAnswer) for line in lines)
        }

    def list_missing(self, selection: Iterable[CheckableQuestion]) -> list[CheckableQuestion]:
        """The questions of ``selection`` that are still to be asked."""
        return [question for question in selection if question.id not in self.answers]

    def add(self, answer: VariantAnswer) -> None:
        """Keep an answer, in the file as well."""
        self.answers[answer.id] = answer
        with self._path.open("ab") as lines:
            lines.write(msgspec.json.encode(answer) + b"\n")


async def race(
    ask_question: Callable[[CheckableQuestion], Any],
    selection: Sequence[CheckableQuestion],
    ledger: Ledger,
    *,
    concurrency: int,
) -> float:
    """Ask all questions of ``selection`` with ``concurrency`` clients; returns the seconds it took."""
    queue = list(selection)[::-1]

    async def client() -> None:
        while queue:
            ledger.add(await ask_question(queue.pop()))

    started = time.perf_counter()
    async with anyio.create_task_group() as tasks:
        for _ in range(concurrency):
            tasks.start_soon(client)
    return time.perf_counter() - started


@dataclass(frozen=True, kw_only=True)
class VariantScore:
    """A variant in figures; intervals are 95 %. ``against`` is the accuracy less that of the variant compared with."""

    name: str
    count: int
    accuracy: float
    low: float
    high: float
    against: tuple[float, float, float] | None
    by_kind: dict[str, float]
    tokens: float
    seconds: float
    outcomes: dict[str, int]
    objected: int
    arbitrated: int
    biased: int
    changed: int


def score(name: str, answers: Sequence[VariantAnswer], base: Sequence[VariantAnswer] = ()) -> VariantScore:
    """The figures of one variant; ``base`` are the answers of the variant that it is compared with."""
    right = sum(answer.right for answer in answers)
    low, high = wilson_interval(right, len(answers))
    kinds = dict.fromkeys(answer.kind for answer in answers)
    outcomes = dict.fromkeys(answer.outcome for answer in answers)
    return VariantScore(
        name=name,
        count=len(answers),
        accuracy=right / len(answers),
        low=low,
        high=high,
        against=accuracy_difference(answers, base) if base else None,
        by_kind={kind: statistics.fmean(answer.right for answer in answers if answer.kind == kind) for kind in kinds},
        tokens=statistics.fmean(answer.tokens for answer in answers),
        seconds=statistics.median(answer.seconds for answer in answers),
        outcomes={outcome: sum(answer.outcome == outcome for answer in answers) for outcome in outcomes},
        objected=sum(answer.objected for answer in answers),
        arbitrated=sum(answer.arbitrated for answer in answers),
        biased=sum(bool(answer.biases) for answer in answers),
        changed=sum(answer.changed for answer in answers),
    )


def accuracy_difference(
    answers: Sequence[VariantAnswer], base: Sequence[VariantAnswer]
) -> tuple[float, float, float] | None:
    """Difference in accuracy on the questions that both answered, and its bootstrap interval; None without any."""
    base_right = {answer.id: answer.right for answer in base}
    differences = [float(answer.right) - base_right[answer.id] for answer in answers if answer.id in base_right]
    return (statistics.fmean(differences), *bootstrap_interval(differences)) if differences else None


def compute_ratio(answers: Mapping[str, VariantAnswer], base: Mapping[str, VariantAnswer]) -> float | None:
    """Model and embedding time over that of ``base``, on the questions that both answered alone on the machine."""
    both = answers.keys() & base.keys()
    base_compute = sum(base[question_id].compute for question_id in both)
    return sum(answers[question_id].compute for question_id in both) / base_compute if base_compute else None
