"""``kiki bench locomo``: is the evidence of LoCoMo's questions among the first k hits of a recall?

Each dialogue is a tenant of its own in real stores, and each question goes the way of every recall: one search of
Atlas, then :func:`agents.memory.search.rank_matches`. The ablations are settings of that ranking, and so are the
weights that ``--cross-validate`` chooses from.
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
from agents.memory.ranking import Match, ScoredMatch, drop_duplicates, keep_relevant
from agents.memory.search import rank_matches, search_atlas
from agents.memory.settings import MemorySettings
from agents.memory.stores.pair import Stores
from agents.memory.stores.stored import Lookup
from agents.memory.text.words import WordEncoder
from runtime.bench.dialogues import Dialogue, DialogueQuestion, read_dialogues
from runtime.bench.harness import BenchReport, JsonOption, PictureOption, fresh_stores, progress_bar, publish_report
from runtime.bench.intervals import CrossValidated, Fold, bootstrap_interval, cross_validate
from runtime.bench.plots import IntervalBar, interval_chart
from runtime.cli import command, run_async, settings_of
from runtime.local_embedder import BATCH, Embed, open_embedder
from schemas.errors import InvalidInput

CATEGORIES = {1: "multi-hop", 2: "temporal", 3: "open-domain", 4: "single-hop"}
STORE_BATCH = 64
"""Episodes that are stored together."""

READER = "reader"
"""The user whose memory a dialogue is."""

GRID: dict[str, tuple[float, ...]] = {
    "lexical_weight": (0.2, 0.3, 0.4),
    "speaker_weight": (0.1, 0.15, 0.2),
    "question_weight": (0.04, 0.08, 0.12),
    "date_weight": (0.1, 0.2, 0.3),
}
"""The values that cross-validation chooses from, by setting."""

Weights = tuple[float, ...]
"""One value of each setting of :data:`GRID`, in its order."""


@command
def locomo(
    directory: Annotated[Path, typer.Argument(help="Folder of LoCoMo dialogues, one JSON file each.")],
    k: Annotated[int, typer.Option("--k", min=1, max=100, help="Hits that count.")] = 10,
    cross_validation: Annotated[
        bool, typer.Option("--cross-validate", help="Judge each dialogue with weights chosen on the others.")
    ] = False,
    picture: PictureOption = None,
    as_json: JsonOption = False,
) -> None:
    """Evidence recall of the memory on LoCoMo, by category and by part of the fusion."""
    dialogues = read_dialogues(directory)
    if cross_validation and len(dialogues) < 2:
        raise InvalidInput("--cross-validate needs at least two dialogues.", param="directory")
    searches = run_async(_search_here, dialogues, k)
    if cross_validation:
        report = _cross_validation_report(cross_validate_weights(searches, k=k), k)
    else:
        report = _report(measure(searches, k=k), k, [dialogue.name for dialogue in dialogues])
    publish_report(report, as_json=as_json, picture=picture)


@dataclass(frozen=True)
class QuestionSearch:
    """A question, and what Atlas found for it in its own dialogue and in another one, which holds no answer to it.

    It is asked at ``now`` (Unix time), when its dialogue ends.
    """

    dialogue: str
    question: DialogueQuestion
    now: float
    lookup: Lookup
    matches: Sequence[Match]
    strangers: Sequence[Match]

    def rank(self, settings: MemorySettings, *, strange: bool = False) -> list[ScoredMatch]:
        """The ranking of what was found; with ``strange``, in the other dialogue."""
        return rank_matches(self.strangers if strange else self.matches, self.lookup, now=self.now, settings=settings)


@dataclass(frozen=True)
class Searches:
    """All questions of some dialogues, with the settings of the memory that was searched."""

    settings: MemorySettings
    questions: Sequence[QuestionSearch]


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
    "without dates": {"date_weight": 0.0},
    "without superseding": {"same_fact": 1.0},
    "vectors in context alone": {
        "lexical_weight": 0.0,
        "speaker_weight": 0.0,
        "question_weight": 0.0,
        "date_weight": 0.0,
    },
}


async def search_dialogues(
    dialogues: Sequence[Dialogue],
    embed: Embed,
    *,
    k: int,
    vector_size: int = 768,
    tick: Callable[[int], None] = lambda _: None,
) -> Searches:
    """Store the dialogues and search for every question; ``tick`` gets the number of texts embedded."""
    async with fresh_stores(vector_size=vector_size) as stores:
        ends: dict[str, float] = {}
        for dialogue in dialogues:
            ends[dialogue.name] = await _remember(stores, dialogue, embed, tick)
        settings = msgspec.structs.replace(stores.settings, recency_weight=0.0)
        searches = []
        for number, dialogue in enumerate(dialogues):
            stranger = dialogues[(number + 1) % len(dialogues)].name
            vectors = await _embed_batches([question.text for question in dialogue.questions], embed, tick)
            for question, vector in zip(dialogue.questions, vectors, strict=True):
                mine, theirs = (owner_key(name, READER, "") for name in (dialogue.name, stranger))
                limit = max(k, settings.candidates)
                lookup = Lookup(owner=mine, vector=tuple(vector), text=question.text, limit=limit)
                now = ends[dialogue.name]
                matches = await search_atlas(stores, lookup, now=now)
                strange_matches = await search_atlas(stores, msgspec.structs.replace(lookup, owner=theirs), now=now)
                searches.append(QuestionSearch(dialogue.name, question, now, lookup, matches, strange_matches))
        return Searches(settings, searches)


def measure(searches: Searches, *, k: int) -> LocomoFigures:
    """Evidence recall at ``k`` of each ablation, and the floors."""
    recalls = {}
    for name, changes in ABLATIONS.items():
        settings = msgspec.structs.replace(searches.settings, **changes)
        recalls[name] = [
            (search.question.category, evidence_recall(search, settings, k)) for search in searches.questions
        ]
    return LocomoFigures(recalls, _measure_floors(searches))


def cross_validate_weights(searches: Searches, *, k: int) -> CrossValidated[Weights]:
    """Evidence recall at ``k`` of each dialogue, with the weights of :data:`GRID` that are best on the others."""
    values: dict[Weights, dict[str, list[float]]] = {}
    for weights in itertools.product(*GRID.values()):
        settings = msgspec.structs.replace(searches.settings, **dict(zip(GRID, weights, strict=True)))
        rows: dict[str, list[float]] = {}
        for search in searches.questions:
            rows.setdefault(search.dialogue, []).append(evidence_recall(search, settings, k))
        values[weights] = rows
    return cross_validate(values)


def evidence_recall(search: QuestionSearch, settings: MemorySettings, k: int) -> float:
    """Share of a question's evidence among the first ``k`` hits."""
    first = {hit.match.source_id for hit in search.rank(settings)[:k]}
    return len(first & set(search.question.evidence)) / len(search.question.evidence)


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


async def _remember(stores: Stores, dialogue: Dialogue, embed: Embed, tick: Callable[[int], None]) -> float:
    """Store the dialogue's turns; return when the last one was said (Unix time)."""
    entries = imports.date_lines(dialogue.lines)
    vectors = await _embed_batches([entry.line.embedding_text for entry in entries], embed, tick)
    episodes = [
        imports.build_event(entry, vector, tenant=dialogue.name, user=READER).episode
        for entry, vector in zip(entries, vectors, strict=True)
    ]
    for at in range(0, len(episodes), STORE_BATCH):
        await project_episodes(stores, episodes[at : at + STORE_BATCH])
    return max(entry.at for entry in entries)


async def _embed_batches(texts: Sequence[str], embed: Embed, tick: Callable[[int], None]) -> list[Sequence[float]]:
    vectors: list[Sequence[float]] = []
    for at in range(0, len(texts), BATCH):
        batch = texts[at : at + BATCH]
        vectors.extend(await embed(batch))
        tick(len(batch))
    return vectors


def _measure_floors(searches: Searches) -> tuple[Floor, ...]:
    """What each question is shown in its own dialogue, and in the other one."""
    settings = searches.settings
    words = WordEncoder(settings.language)
    evidence: dict[float, list[bool]] = {floor: [] for floor in FLOORS}
    strangers: dict[float, list[bool]] = {floor: [] for floor in FLOORS}
    for search in searches.questions:
        for strange in (False, True):
            hits = search.rank(settings, strange=strange)[: settings.compared]
            for floor in FLOORS:
                changed = msgspec.structs.replace(settings, relevance_floor=floor)
                relevant_hits = drop_duplicates(
                    keep_relevant(hits, text=search.question.text, words=words, settings=changed)
                )
                shown_ids = {hit.match.source_id for hit in itertools.islice(relevant_hits, settings.max_hits)}
                if strange:
                    strangers[floor].append(bool(shown_ids))
                else:
                    evidence[floor].append(bool(shown_ids & set(search.question.evidence)))
    return tuple(Floor(floor, float(np.mean(evidence[floor])), float(np.mean(strangers[floor]))) for floor in FLOORS)


async def _search_here(dialogues: Sequence[Dialogue], k: int) -> Searches:
    texts = sum(len(dialogue.lines) + len(dialogue.questions) for dialogue in dialogues)
    with progress_bar("embedding", total=texts) as tick:
        async with open_embedder(settings_of(log_level="warning")) as embed:
            return await search_dialogues(dialogues, embed, k=k, tick=tick)


def _cross_validation_report(result: CrossValidated[Weights], k: int) -> BenchReport:
    table = Table("left out", "questions", f"recall@{k}", *GRID, title="judged with the others' weights", box=None)
    for fold in result.folds:
        table.add_row(fold.group, str(len(fold.values)), f"{fold.mean:.3f}", *(f"{weight}" for weight in fold.choice))
    low, high = result.by_value
    group_low, group_high = result.by_group
    return BenchReport(
        bench="locomo",
        fields={
            "k": k,
            "grid": GRID,
            "folds": [_fold_fields(fold) for fold in result.folds],
            "mean": result.mean,
            "by_question": result.by_value,
            "by_dialogue": result.by_group,
        },
        tables=[table],
        notes=[
            f"mean {result.mean:.3f}; 95 % interval over questions {low:.3f} to {high:.3f}, "
            f"over dialogues {group_low:.3f} to {group_high:.3f}"
        ],
        chart=interval_chart(
            [
                IntervalBar(label="over questions", middle=result.mean, low=low, high=high),
                IntervalBar(label="over dialogues", middle=result.mean, low=group_low, high=group_high),
            ],
            unit=f"cross-validated evidence recall@{k}, 95 % interval",
        ),
    )


def _fold_fields(fold: Fold[Weights]) -> dict[str, Any]:
    weights = dict(zip(GRID, fold.choice, strict=True))
    return {"left_out": fold.group, "questions": len(fold.values), "recall": fold.mean, "weights": weights}


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
