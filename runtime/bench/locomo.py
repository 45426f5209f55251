"""``kiki bench locomo``: is the evidence of LoCoMo's questions among the first k hits of a recall?

Each dialogue is a tenant of its own in real stores, and each question goes the way of every recall:
:func:`agents.memory.search.find`. The ablations are settings of that same path.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
import typer
from rich.table import Table

from agents.memory import imports
from agents.memory.episodes import owner_key
from agents.memory.projection import project_episodes
from agents.memory.ranking import drop_duplicates, keep_relevant
from agents.memory.search import find
from agents.memory.settings import MemorySettings
from agents.memory.stores.pair import Stores
from agents.memory.stores.points import Lookup
from agents.memory.words import WordEncoder
from runtime.bench.dialogues import Dialogue, DialogueQuestion, read_dialogues
from runtime.bench.harness import BenchReport, JsonOption, PictureOption, fresh_stores, progress_bar, publish_report
from runtime.bench.intervals import bootstrap_interval
from runtime.bench.plots import IntervalBar, interval_chart
from runtime.cli import command, run_async, settings_of
from runtime.local_embedder import BATCH, Embed, open_embedder

CATEGORIES = {1: "multi-hop", 2: "temporal", 3: "open-domain", 4: "single-hop"}
STORE_BATCH = 64
"""Episodes that are stored together."""

READER = "reader"
"""The user whose memory a dialogue is."""

QuestionVectors = dict[str, Sequence[Sequence[float]]]
"""The questions' vectors by dialogue."""


@command
def locomo(
    directory: Annotated[Path, typer.Argument(help="Folder of LoCoMo dialogues, one JSON file each.")],
    k: Annotated[int, typer.Option("--k", min=1, max=100, help="Hits that count.")] = 10,
    picture: PictureOption = None,
    as_json: JsonOption = False,
) -> None:
    """Evidence recall of the memory on LoCoMo, by category and by part of the fusion."""
    dialogues = read_dialogues(directory)
    figures = run_async(_measure_here, dialogues, k)
    names = [dialogue.name for dialogue in dialogues]
    publish_report(_report(figures, k, names), as_json=as_json, picture=picture)


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % bootstrap interval over ``count`` questions."""

    mean: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Floor:
    """What a turn would be shown with one relevance floor.

    Attributes:
        floor: the least cosine; an episode below it is shown when it has enough of the question's words.
        evidence: share of the questions that are shown some of their evidence.
        strangers: share of the questions about another dialogue that are shown anything.
    """

    floor: float
    evidence: float
    strangers: float


@dataclass(frozen=True)
class LocomoFigures:
    """For each ablation every question's category and evidence recall; and the figures of each relevance floor."""

    recall: dict[str, list[tuple[int, float]]]
    floors: tuple[Floor, ...]


FLOORS = (0.0, 0.3, 0.4, 0.5, 0.6)

ABLATIONS: dict[str, dict[str, Any]] = {
    "whole": {},
    "without words": {"lexical_weight": 0.0},
    "without speaker": {"speaker_weight": 0.0},
    "without the cost of questions": {"question_weight": 0.0},
    "without superseding": {"same_fact": 2.0},
    "vectors in context alone": {"lexical_weight": 0.0, "speaker_weight": 0.0, "question_weight": 0.0},
}


async def measure(
    dialogues: Sequence[Dialogue],
    embed: Embed,
    *,
    k: int,
    vector_size: int = 768,
    tick: Callable[[int], None] = lambda _: None,
) -> LocomoFigures:
    """Evidence recall at ``k`` of each ablation, and the floors; ``tick`` gets the number of texts embedded."""
    async with fresh_stores(vector_size=vector_size) as stores:
        question_vectors: QuestionVectors = {}
        for dialogue in dialogues:
            await _remember(stores, dialogue, embed, tick)
            question_vectors[dialogue.name] = await _embed_batches([q.text for q in dialogue.questions], embed, tick)
        settings = msgspec.structs.replace(stores.settings, recency_weight=0.0)
        recalls = {}
        for name, changes in ABLATIONS.items():
            changed = msgspec.structs.replace(settings, **changes)
            recalls[name] = [
                (question.category, await _recall(stores, dialogue.name, question, vector, k, changed))
                for dialogue in dialogues
                for question, vector in zip(dialogue.questions, question_vectors[dialogue.name], strict=True)
            ]
        return LocomoFigures(recalls, await _measure_floors(stores, dialogues, question_vectors, settings))


def interval(values: Sequence[float]) -> Interval:
    """The mean with its 95 % percentile bootstrap interval."""
    return Interval(float(np.mean(values)), *bootstrap_interval(values), len(values))


def by_category(values: Sequence[tuple[int, float]]) -> dict[str, Interval]:
    """The interval over all questions, then one for each category that occurs."""
    intervals = {"all": interval([value for _, value in values])}
    for category in sorted({category for category, _ in values}):
        name = CATEGORIES.get(category, str(category))
        intervals[name] = interval([value for label, value in values if label == category])
    return intervals


async def _remember(stores: Stores, dialogue: Dialogue, embed: Embed, tick: Callable[[int], None]) -> None:
    entries = imports.date_lines(dialogue.lines)
    vectors = await _embed_batches([entry.line.embedding_text for entry in entries], embed, tick)
    episodes = [
        imports.build_event(entry, vector, tenant=dialogue.name, user=READER).episode
        for entry, vector in zip(entries, vectors, strict=True)
    ]
    for at in range(0, len(episodes), STORE_BATCH):
        await project_episodes(stores, episodes[at : at + STORE_BATCH])


async def _embed_batches(texts: Sequence[str], embed: Embed, tick: Callable[[int], None]) -> list[Sequence[float]]:
    vectors: list[Sequence[float]] = []
    for at in range(0, len(texts), BATCH):
        batch = texts[at : at + BATCH]
        vectors.extend(await embed(batch))
        tick(len(batch))
    return vectors


async def _recall(
    stores: Stores, tenant: str, question: DialogueQuestion, vector: Sequence[float], k: int, settings: MemorySettings
) -> float:
    lookup = Lookup(
        owner=owner_key(tenant, READER, ""), vector=tuple(vector), text=question.text, limit=max(k, settings.candidates)
    )
    hits = await find(stores, lookup, now=0.0, settings=settings)
    first = {hit.match.source_id for hit in hits[:k]}
    return len(first & set(question.evidence)) / len(question.evidence)


async def _measure_floors(
    stores: Stores, dialogues: Sequence[Dialogue], question_vectors: QuestionVectors, settings: MemorySettings
) -> tuple[Floor, ...]:
    """Ask every question in its own dialogue, and in the next one, which holds no answer to it."""
    words = WordEncoder(settings.language)
    evidence: dict[float, list[bool]] = {floor: [] for floor in FLOORS}
    strangers: dict[float, list[bool]] = {floor: [] for floor in FLOORS}
    for number, dialogue in enumerate(dialogues):
        stranger = dialogues[(number + 1) % len(dialogues)].name
        for question, vector in zip(dialogue.questions, question_vectors[dialogue.name], strict=True):
            for tenant in (dialogue.name, stranger):
                lookup = Lookup(
                    owner=owner_key(tenant, READER, ""),
                    vector=tuple(vector),
                    text=question.text,
                    limit=settings.candidates,
                )
                hits = (await find(stores, lookup, now=0.0, settings=settings))[: settings.compared]
                for floor in FLOORS:
                    changed = msgspec.structs.replace(settings, relevance_floor=floor)
                    relevant_hits = drop_duplicates(
                        keep_relevant(hits, text=question.text, words=words, settings=changed)
                    )
                    shown_ids = {hit.match.source_id for hit in itertools.islice(relevant_hits, settings.max_hits)}
                    if tenant == stranger:
                        strangers[floor].append(bool(shown_ids))
                    else:
                        evidence[floor].append(bool(shown_ids & set(question.evidence)))
    return tuple(Floor(floor, float(np.mean(evidence[floor])), float(np.mean(strangers[floor]))) for floor in FLOORS)


async def _measure_here(dialogues: Sequence[Dialogue], k: int) -> LocomoFigures:
    texts = sum(len(dialogue.lines) + len(dialogue.questions) for dialogue in dialogues)
    with progress_bar("embedding", total=texts) as tick:
        async with open_embedder(settings_of(log_level="warning")) as embed:
            return await measure(dialogues, embed, k=k, tick=tick)


def _report(figures: LocomoFigures, k: int, names: Sequence[str]) -> BenchReport:
    intervals = {name: by_category(values) for name, values in figures.recall.items()}
    parts = {name: {part: asdict(row) for part, row in rows.items()} for name, rows in intervals.items()}
    floors = [asdict(floor) for floor in figures.floors]
    return BenchReport(
        bench="locomo",
        fields={"k": k, "dialogues": names, "evidence_recall": parts, "floors": floors},
        tables=_tables(intervals, figures.floors, k),
        chart=interval_chart(
            [
                IntervalBar(label=label, middle=row.mean, low=row.low, high=row.high)
                for label, row in [
                    *intervals["whole"].items(),
                    *((name, rows["all"]) for name, rows in intervals.items() if name != "whole"),
                ]
            ],
            unit=f"evidence recall@{k}, 95 % interval",
        ),
    )


def _tables(intervals: Mapping[str, Mapping[str, Interval]], floors: Sequence[Floor], k: int) -> list[Table]:
    whole = intervals["whole"]
    categories = Table("category", "questions", f"recall@{k}", "95 % interval", title="evidence recall", box=None)
    for name, row in whole.items():
        categories.add_row(name, str(row.count), f"{row.mean:.3f}", f"{row.low:.3f} to {row.high:.3f}")
    ablations = Table("fusion", *whole, title=f"recall@{k} without a part", box=None)
    for name, rows in intervals.items():
        ablations.add_row(name, *(f"{rows[category].mean:.3f}" for category in whole))
    floor_table = Table("floor", "evidence shown", "strangers shown anything", title="relevance floor", box=None)
    for floor in floors:
        floor_table.add_row(f"{floor.floor:.1f}", f"{floor.evidence:.3f}", f"{floor.strangers:.3f}")
    return [categories, ablations, floor_table]
