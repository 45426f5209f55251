"""LoCoMo (arXiv 2402.17753) as a measure of retrieval: is a question's evidence among the first k hits?

Each dialogue is a tenant of its own in real stores, and each question goes the way of every recall:
:func:`agents.memory.search.find`. The ablations are settings of that same path.
"""

import itertools
import json
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from agents.memory import imports
from agents.memory.projection import apply
from agents.memory.ranking import drop_duplicates, keep_relevant
from agents.memory.search import find
from agents.memory.settings import MemorySettings
from agents.memory.stores.pair import Stores
from agents.memory.stores.points import Lookup
from agents.memory.words import WordEncoder
from runtime.local_embedder import BATCH, Embed
from schemas.errors import InvalidInput

CATEGORIES = {1: "multi-hop", 2: "temporal", 3: "open-domain", 4: "single-hop"}
ADVERSARIAL = 5
STORE_BATCH = 64
"""Episodes that are stored together."""

QuestionVectors = dict[str, Sequence[Sequence[float]]]
"""The questions' vectors by dialogue."""

DRAWS = 2000
"""Bootstrap samples of a confidence interval."""

_EVIDENCE = re.compile(r"D\d+:\d+")


@dataclass(frozen=True)
class DialogueQuestion:
    """A question with the ids of the turns that answer it."""

    text: str
    category: int
    evidence: tuple[str, ...]


@dataclass(frozen=True)
class Dialogue:
    """Turns, and the questions that have evidence among them."""

    name: str
    lines: tuple[imports.HistoryLine, ...]
    questions: tuple[DialogueQuestion, ...]


@dataclass(frozen=True)
class Interval:
    """A mean with its 95 % bootstrap interval over ``count`` questions."""

    mean: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Floor:
    """What a turn is shown at a relevance floor.

    Attributes:
        floor: the cosine; enough of the question's words pass below it, too.
        evidence: share of the questions that are shown some of their evidence.
        strangers: share of the questions about another dialogue that are shown anything.
    """

    floor: float
    evidence: float
    strangers: float


@dataclass(frozen=True)
class LocomoFigures:
    """For each ablation the category and evidence recall of every question; and the floors."""

    recall: dict[str, list[tuple[int, float]]]
    floors: tuple[Floor, ...]


FLOORS = (0.0, 0.3, 0.4, 0.5, 0.6)

ABLATIONS: dict[str, dict[str, Any]] = {
    "whole": {},
    "without words": {"lexical_weight": 0.0},
    "without speaker": {"speaker_weight": 0.0},
    "without the cost of questions": {"question_weight": 0.0},
    "without superseding": {"superseded_weight": 0.0},
    "vectors in context alone": {"lexical_weight": 0.0, "speaker_weight": 0.0, "question_weight": 0.0},
}


def read_dialogues(directory: Path) -> list[Dialogue]:
    """The dialogues in ``directory``, one JSON file each.

    Raises:
        InvalidInput: there is none, or one is not of LoCoMo's form.
    """
    files = sorted(directory.glob("*.json"))
    if not files:
        raise InvalidInput(f"no *.json in {directory}: give a folder of LoCoMo dialogues.", param="directory")
    return [_parse_dialogue(path) for path in files]


async def measure(
    dialogues: Sequence[Dialogue],
    embed: Embed,
    *,
    k: int,
    vector_size: int = 768,
    tick: Callable[[int], None] = lambda _: None,
) -> LocomoFigures:
    """Evidence recall at ``k`` of each ablation, and the floors; ``tick`` gets the number of texts embedded."""
    with tempfile.TemporaryDirectory(prefix="kiki-locomo-") as directory:
        settings = MemorySettings(data_dir=Path(directory), vector_size=vector_size)
        stores = Stores(settings)
        async with stores.open(_rebuild_nothing):
            question_vectors: QuestionVectors = {}
            for dialogue in dialogues:
                await _remember(stores, dialogue, embed, tick)
                question_vectors[dialogue.name] = await _embed_batches(
                    [q.text for q in dialogue.questions], embed, tick
                )
            settings = msgspec.structs.replace(settings, recency_weight=0.0)
            recalls = {}
            for name, changes in ABLATIONS.items():
                changed = msgspec.structs.replace(settings, **changes)
                recalls[name] = [
                    (question.category, await _recall(stores, dialogue.name, question, vector, k, changed))
                    for dialogue in dialogues
                    for question, vector in zip(dialogue.questions, question_vectors[dialogue.name], strict=True)
                ]
            return LocomoFigures(recalls, await _measure_floors(stores, dialogues, question_vectors, settings))


def interval(values: Sequence[float], *, seed: int = 0) -> Interval:
    """The mean with its 95 % percentile bootstrap interval."""
    data = np.asarray(values, dtype=np.float64)
    samples = np.random.default_rng(seed).integers(0, len(data), size=(DRAWS, len(data)))
    low, high = np.quantile(data[samples].mean(axis=1), (0.025, 0.975))
    return Interval(float(data.mean()), float(low), float(high), len(data))


def by_category(values: Sequence[tuple[int, float]]) -> dict[str, Interval]:
    """The interval over all questions, then one for each category that occurs."""
    intervals = {"all": interval([value for _, value in values])}
    for category in sorted({category for category, _ in values}):
        name = CATEGORIES.get(category, str(category))
        intervals[name] = interval([value for label, value in values if label == category])
    return intervals


def _parse_dialogue(path: Path) -> Dialogue:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        lines = tuple(
            imports.HistoryLine(
                text=turn["text"],
                session=turn["session"],
                speaker=turn["speaker"],
                timestamp=turn["when"],
                id=turn["dia_id"],
            )
            for turn in data["turns"]
        )
        ids = {str(line.id) for line in lines}
        questions = tuple(
            DialogueQuestion(item["question"], item["category"], evidence)
            for item in data["qa"]
            if item["category"] != ADVERSARIAL and (evidence := _evidence(item, ids))
        )
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise InvalidInput(f"{path.name} is no LoCoMo dialogue ({error!r}).", param="directory") from error
    return Dialogue(path.stem, lines, questions)


def _evidence(item: dict[str, Any], ids: set[str]) -> tuple[str, ...]:
    mentions = (name for text in item.get("evidence", ()) for name in _EVIDENCE.findall(text))
    return tuple(dict.fromkeys(name for name in mentions if name in ids))


async def _remember(stores: Stores, dialogue: Dialogue, embed: Embed, tick: Callable[[int], None]) -> None:
    entries = imports.date_lines(dialogue.lines)
    vectors = await _embed_batches([entry.line.embedding_text for entry in entries], embed, tick)
    episodes = [
        imports.event(entry, vector, tenant=dialogue.name).episode
        for entry, vector in zip(entries, vectors, strict=True)
    ]
    for at in range(0, len(episodes), STORE_BATCH):
        await apply(stores, episodes[at : at + STORE_BATCH])


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
    ask = Lookup(tenant=tenant, vector=tuple(vector), text=question.text, limit=max(k, settings.candidates))
    hits = await find(stores, ask, now=0.0, settings=settings)
    first = {hit.match.source_id for hit in hits[:k]}
    return len(first & set(question.evidence)) / len(question.evidence)


async def _measure_floors(
    stores: Stores, dialogues: Sequence[Dialogue], question_vectors: QuestionVectors, settings: MemorySettings
) -> tuple[Floor, ...]:
    """Every question is asked in its own dialogue and in the next one, which knows nothing of it."""
    words = WordEncoder(settings.language)
    evidence: dict[float, list[bool]] = {floor: [] for floor in FLOORS}
    strangers: dict[float, list[bool]] = {floor: [] for floor in FLOORS}
    for number, dialogue in enumerate(dialogues):
        stranger = dialogues[(number + 1) % len(dialogues)].name
        for question, vector in zip(dialogue.questions, question_vectors[dialogue.name], strict=True):
            for tenant in (dialogue.name, stranger):
                ask = Lookup(tenant=tenant, vector=tuple(vector), text=question.text, limit=settings.candidates)
                hits = (await find(stores, ask, now=0.0, settings=settings))[: settings.compared]
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


async def _rebuild_nothing() -> None:
    """The stores begin empty; there is no record to project again."""
