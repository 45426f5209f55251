"""``kiki soak chaos``: clients ask, the nemesis breaks, and at the end the judge compares history and record."""

import contextlib
import random
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio

from bus.connection import Bus, connect
from bus.dead_letters import read_letters
from bus.record import read_entries
from bus.stream import read_stream
from bus.subjects import Subjects
from bus.topology import ANSWERS
from runtime.soak import nemesis
from runtime.soak.clients import make_clients
from runtime.soak.history import AnswerGiven, AnyMoment, FaultHealed, SoakHistory
from runtime.soak.judge import RecordedTurn, Remains, count_moments, judge
from runtime.soak.neighbours import BusAsker, RecordReader
from runtime.soak.scene import SoakScene, open_scene
from schemas.calls import MEMORY_VERIFY
from schemas.errors import KikiError
from schemas.events import AnswerReady, TurnCancelled, TurnFailed
from schemas.memory import VerifyRequest

PROGRESS_SECONDS = 120.0
"""Seconds after a fault within which a question is answered."""

SETTLE_SECONDS = 300.0
"""Longest wait for the last answers, and then for the stores to hold all of the record."""

ENDS_SECONDS = 240.0
"""Seconds between two looks at the turns' ends, which streams keep for an hour."""


@dataclass(frozen=True)
class ChaosVerdict:
    """What a soak found. ``figures`` count moments and measure the run; ``violations`` are a line each."""

    seed: int
    figures: Mapping[str, int | float]
    violations: Sequence[str]


async def run_chaos(
    directory: Path, *, seconds: float, seed: int, faults: Sequence[str], clients: int, say: Callable[[str], None]
) -> ChaosVerdict:
    """Break a new runtime in ``directory`` for so long; ``say`` is told of each fault.

    Raises:
        SetupError: the runtime does not start, or ended by itself.
    """
    dice = random.Random(seed)
    history = SoakHistory(directory / "history.jsonl")
    ends: defaultdict[str, dict[int, str]] = defaultdict(dict)
    with contextlib.closing(history), open_scene(directory, dice) as scene:
        if scene.remote:
            say(f"behind the cable: {', '.join(sorted(scene.remote))}")
        await scene.start_and_wait()
        reader = RecordReader(scene.broker, history)
        stop, settled, began, stalls = anyio.Event(), anyio.Event(), time.monotonic(), list[str]()
        async with anyio.create_task_group() as tasks:
            async with anyio.create_task_group() as asking:
                for client in make_clients(scene.http, history, dice, count=clients):
                    asking.start_soon(client.run, stop)
                asking.start_soon(BusAsker(scene.broker, history, random.Random(dice.random())).run, stop)
                tasks.start_soon(reader.run, settled)
                tasks.start_soon(_collect_ends, scene, ends)
                await _break(scene, history, dice, faults, until=began + seconds, stalls=stalls, say=say)
                stop.set()
                say("whole again; waiting for the last answers")
                asking.cancel_scope.deadline = anyio.current_time() + SETTLE_SECONDS
            scene.check_alive()
            async with connect(scene.broker, name="kiki-soak") as bus:
                disagreement = await _verify(bus)
                settled.set()
                with anyio.move_on_after(SETTLE_SECONDS):
                    await reader.drained.wait()
                remains = await _gather_remains(bus, ends, disagreement)
            tasks.cancel_scope.cancel()
    figures: dict[str, int | float] = dict(count_moments(history.moments))
    figures |= {"recorded": len(remains.turns), "runtime starts": scene.starts, "minutes": round(seconds / 60, 1)}
    figures["longest request, s"] = round(_find_longest(history.moments), 1)
    return ChaosVerdict(seed, figures, (*stalls, *judge(history.moments, remains)))


async def _break(
    scene: SoakScene,
    history: SoakHistory,
    dice: random.Random,
    faults: Sequence[str],
    *,
    until: float,
    stalls: list[str],
    say: Callable[[str], None],
) -> None:
    """One fault after the other, now and then two at once; after each a question is to be answered."""
    while time.monotonic() < until:
        await anyio.sleep(dice.uniform(1.0, 6.0))
        names = dice.sample(faults, 2 if len(faults) > 1 and dice.random() < 0.25 else 1)
        first = len(history.moments)
        async with anyio.create_task_group() as tasks:
            for name in names:
                tasks.start_soon(nemesis.strike_once, name, scene, random.Random(dice.random()), history)
        for moment in history.moments[first:]:
            if isinstance(moment, FaultHealed):
                say(f"{moment.name}: {moment.detail}" if moment.detail else moment.name)
        scene.check_alive()
        healed, seen = time.monotonic(), len(history.moments)
        while not any(isinstance(moment, AnswerGiven) for moment in history.moments[seen:]):
            if time.monotonic() - healed > PROGRESS_SECONDS:
                stalls.append(f"no answer for {PROGRESS_SECONDS:.0f} s after {' and '.join(names)}")
                say(stalls[-1])
                break
            await anyio.sleep(0.1)


async def _collect_ends(scene: SoakScene, ends: defaultdict[str, dict[int, str]]) -> None:
    """Look at the ends of turns again and again, before the streams let go of them."""
    while True:
        await anyio.sleep(ENDS_SECONDS)
        try:
            async with connect(scene.broker, name="kiki-soak") as bus:
                await _read_ends(bus, ends)
        except KikiError:  # the broker is away; the next look finds what this one did not
            continue


async def _read_ends(bus: Bus, ends: defaultdict[str, dict[int, str]]) -> None:
    subjects = [bus.subjects.stage(kind.subject) for kind in (AnswerReady, TurnFailed, TurnCancelled)]
    async for message in read_stream(bus, ANSWERS, subjects):
        ends[Subjects.key(message.subject)][message.seq] = Subjects.kind(message.subject)


async def _gather_remains(bus: Bus, ends: defaultdict[str, dict[int, str]], disagreement: str) -> Remains:
    await _read_ends(bus, ends)
    turns = [
        RecordedTurn(
            seq=message.seq,
            created_at=episode.created_at,
            turn_id=episode.turn_id,
            tenant=episode.tenant,
            user=episode.user,
            session=episode.session_id,
            question=episode.question,
            answer=episode.answer,
        )
        async for message, episode in read_entries(bus)
        if episode is not None
    ]
    letters = [
        f"{filed.letter.subject} of {filed.letter.consumer}: {filed.letter.reason}"
        async for filed in read_letters(bus)
        if Subjects.kind(filed.letter.subject)
        in ("answer.ready", "answer.taken", "episode.recorded", "episode.forgotten")
    ]
    return Remains(turns, {turn: tuple(kinds.values()) for turn, kinds in ends.items()}, disagreement, letters)


async def _verify(bus: Bus) -> str:
    """How the stores differ from the record once nothing waits any more; empty when they agree."""
    why = ""
    with anyio.move_on_after(SETTLE_SECONDS):
        while True:
            try:
                reply = await bus.request(MEMORY_VERIFY, VerifyRequest(), timeout=60.0)
            except KikiError as error:  # it is just starting
                why = error.message
            else:
                if reply.agrees and not reply.waiting:
                    return ""
                why = str(reply)[:600]
            await anyio.sleep(2.0)
    return why


def _find_longest(moments: Sequence[AnyMoment]) -> float:
    return max((getattr(moment, "seconds", 0.0) for moment in moments), default=0.0)
