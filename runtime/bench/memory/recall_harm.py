"""``kiki bench recall-harm``: what an unrelated memory does to the answers to general questions.

Sixty general questions (``data/general.jsonl``) are answered greedily at level fast, one candidate each: without
recall, with what a turn is shown of a memory of somebody's life (``data/life.jsonl``), and with what it is shown when
that memory also holds the sixty questions with their answers without recall. Patterns judge the answers
(:mod:`runtime.bench.judge`). A question that is shown nothing has the prompt of no recall: its answer counts again.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated

import typer
from msgspec.structs import replace
from rich.table import Table

from agents.memory import imports
from agents.memory.episodes import owner_key
from agents.memory.projection import project_episodes
from agents.memory.search import choose_hits, find
from agents.memory.stores.pair import Stores
from agents.memory.stores.stored import Lookup
from agents.memory.text.words import WordEncoder
from agents.shared.excerpt import shortened
from bus.connection import Bus
from runtime.bench.harness import (
    BenchReport,
    JsonOption,
    PictureOption,
    fresh_runtime,
    fresh_stores,
    make_query,
    progress_bar,
    publish_report,
    read_data,
)
from runtime.bench.judge import EverydayQuestion
from runtime.bench.plots import bar_chart
from runtime.cli import command, run_async, settings_of
from runtime.local_embedder import BATCH, Embed, open_embedder
from runtime.local_memory import EMBEDDER
from schemas.envelope import PERSON, new_turn
from schemas.episode import Episode
from schemas.events import RecallDone
from schemas.findings import Plan, Recall, RecalledEpisode, Route

TENANT = "bench"
MAX_TOKENS = 48
TURN_SECONDS = 120.0
AGENTS = (EMBEDDER, "inference", "catfish", "negotiator", "antibias")
MEMORIES = ("none", "life", "life and questions")
"""What the memory holds, in the order in which the questions are asked."""


@dataclass(frozen=True, kw_only=True)
class HarmReading:
    """One question with one memory: how many episodes it was shown, the answer, and whether that is right."""

    memory: str
    kind: str
    question: str
    shown: int
    prompt_tokens: int
    answer: str
    right: bool


@command
def recall_harm(
    model: Annotated[str | None, typer.Option(help="Ask this chat model; the settings' own without.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many questions.")] = None,
    picture: PictureOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask sixty general questions without recall and beside an unrelated memory, and judge the answers."""
    name = model or settings_of().model
    questions = read_data("general", EverydayQuestion)[:limit]
    publish_report(_report(run_async(_measure, questions, name), name), as_json=as_json, picture=picture)


async def _measure(questions: Sequence[EverydayQuestion], model: str) -> list[HarmReading]:
    async with fresh_runtime(*AGENTS, model=model) as bus, open_embedder(settings_of(), bus) as embed:
        vectors = await _embed_all([question.question for question in questions], embed)
        readings: list[HarmReading] = []
        with progress_bar("answers", total=len(MEMORIES) * len(questions)) as tick:
            async with fresh_stores(vector_size=len(vectors[0])) as stores:
                for memory in MEMORIES:
                    if memory == "life":
                        await _remember_life(stores, embed)
                    elif memory != "none":
                        await project_episodes(stores, _past_episodes(readings[: len(questions)], vectors))
                    for number, (question, vector) in enumerate(zip(questions, vectors, strict=True)):
                        hits = await _recall(stores, question.question, vector)
                        plain = readings[number] if memory != "none" and not hits else None
                        readings.append(await _ask(bus, question, hits, memory=memory, plain=plain))
                        tick()
    return readings


async def _ask(
    bus: Bus,
    question: EverydayQuestion,
    hits: tuple[RecalledEpisode, ...],
    *,
    memory: str,
    plain: HarmReading | None,
) -> HarmReading:
    """Put the question to the worker with the hits, or take the answer of ``plain``, whose prompt is the same."""
    if plain is not None:
        answer, tokens, right = plain.answer, plain.prompt_tokens, plain.right
    else:
        ready = await bus.publish_and_wait(
            RecallDone(
                envelope=new_turn(tenant=TENANT, user=PERSON, timeout=TURN_SECONDS).next("memory"),
                query=make_query(question.question, level="fast", max_tokens=MAX_TOKENS, seed=0),
                route=Route(domains=(), adapters=(), intent="", plan=Plan(level="fast", record=False)),
                recall=Recall(hits=hits),
            )
        )
        answer, tokens = ready.text, ready.usage.prompt_tokens
        right = question.is_right(answer)
    return HarmReading(
        memory=memory,
        kind=question.kind,
        question=question.question,
        shown=len(hits),
        prompt_tokens=tokens,
        answer=answer,
        right=right,
    )


async def _recall(stores: Stores, text: str, vector: Sequence[float]) -> tuple[RecalledEpisode, ...]:
    """What a turn is shown, chosen as the memory chooses it."""
    settings = stores.settings
    owner = owner_key(TENANT, PERSON, "")
    lookup = Lookup(owner=owner, vector=tuple(vector), text=text, limit=settings.candidates)
    ranking = await find(stores, lookup, now=0.0, settings=settings)
    words = WordEncoder(settings.language)
    return choose_hits(ranking[: settings.compared], text=text, session_id="new", words=words, settings=settings)


async def _remember_life(stores: Stores, embed: Embed) -> None:
    entries = imports.date_lines(read_data("life", imports.HistoryLine))
    vectors = await _embed_all([entry.line.embedding_text for entry in entries], embed)
    events = [
        imports.build_event(entry, vector, tenant=TENANT, user=PERSON)
        for entry, vector in zip(entries, vectors, strict=True)
    ]
    await project_episodes(stores, [event.episode for event in events])


def _past_episodes(readings: Sequence[HarmReading], vectors: Sequence[Sequence[float]]) -> list[Episode]:
    """The questions as turns that were answered without recall."""
    lines = [imports.HistoryLine(text=reading.question, id=str(number)) for number, reading in enumerate(readings)]
    return [
        _with_answer(imports.build_event(entry, vector, tenant=TENANT, user=PERSON).episode, reading.answer)
        for entry, vector, reading in zip(imports.date_lines(lines), vectors, readings, strict=True)
    ]


def _with_answer(episode: Episode, answer: str) -> Episode:
    return replace(episode, answer=answer, speaker="", source_id="")


async def _embed_all(texts: Sequence[str], embed: Embed) -> list[tuple[float, ...]]:
    return [vector for at in range(0, len(texts), BATCH) for vector in await embed(texts[at : at + BATCH])]


def _report(readings: Sequence[HarmReading], model: str) -> BenchReport:
    kinds = list(dict.fromkeys(reading.kind for reading in readings))
    by_memory = {name: [reading for reading in readings if reading.memory == name] for name in MEMORIES}
    plain = by_memory["none"]
    table = Table(
        "memory", "shown anything", *kinds, "right", "became wrong", "became right", "prompt tokens", box=None
    )
    table.title = f"kiki bench recall-harm: {model}, {len(plain)} questions"
    for name, entries in by_memory.items():
        table.add_row(name, *_row(entries, plain, kinds))
    changed = [
        f"{entry.memory}: {entry.question} {'right' if entry.right else 'wrong'}: {shortened(entry.answer, 100)}"
        for entry in readings
        for before in plain
        if before.question == entry.question and before.right != entry.right
    ]
    return BenchReport(
        bench="recall-harm",
        fields={"model": model, "readings": [asdict(reading) for reading in readings]},
        tables=[table],
        notes=changed,
        chart=bar_chart(
            kinds,
            {name: [float(_count(entries, kind)) for kind in kinds] for name, entries in by_memory.items()},
            unit="right answers",
        ),
    )


def _row(entries: Sequence[HarmReading], plain: Sequence[HarmReading], kinds: Sequence[str]) -> list[str]:
    pairs = list(zip(plain, entries, strict=True))
    return [
        str(sum(entry.shown > 0 for entry in entries)),
        *(str(_count(entries, kind)) for kind in kinds),
        str(sum(entry.right for entry in entries)),
        str(sum(before.right and not after.right for before, after in pairs)),
        str(sum(after.right and not before.right for before, after in pairs)),
        str(sum(entry.prompt_tokens for entry in entries)),
    ]


def _count(entries: Sequence[HarmReading], kind: str) -> int:
    return sum(entry.right for entry in entries if entry.kind == kind)
