"""``kiki bench multilingual``: does a question find the lines that answer it, in languages other than English?

The dialogues and questions of ``data/multilingual.jsonl`` were written for this bench. Each dialogue is a memory of its
own, and all of them together are another one, in which every question is asked again. Each question goes the way of
every recall, :func:`agents.memory.search.find`, once with the words as they are counted now and once with English stop
words and stems for every text. The English dialogue is a translation of a French one.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import msgspec
import numpy as np
import qdrant_edge as qdrant
from rich.table import Table

from agents.memory import imports
from agents.memory.episodes import owner_key
from agents.memory.projection import project_episodes
from agents.memory.ranking import drop_duplicates, keep_relevant
from agents.memory.search import find
from agents.memory.settings import MemorySettings
from agents.memory.stores.pair import Stores
from agents.memory.stores.stored import Lookup
from agents.memory.text.words import LATIN, OTHER, SCRIPT_LANGUAGES, Counts, WordEncoder
from runtime.bench.harness import (
    BenchReport,
    JsonOption,
    PictureOption,
    fresh_stores,
    progress_bar,
    publish_report,
    read_data,
)
from runtime.bench.intervals import bootstrap_interval
from runtime.bench.plots import IntervalBar, interval_chart
from runtime.cli import command, run_async, settings_of
from runtime.local_embedder import BATCH, Embed, open_embedder
from schemas.episode import Episode

READER = "reader"
"""The user whose memory a dialogue is."""

CUTOFFS = (1, 5, 10)
ALL = "all but en"
TOGETHER = "together"
"""The memory that holds every dialogue but the translated one, whose answers another dialogue has as well."""

TRANSLATED = "en"
ORIGINAL = "fr, as en"
"""The row of the questions that the English ones translate."""

SPACING = 60.0
"""Seconds between two lines."""

Vectors = Mapping[str, Sequence[float]]
"""The vectors of texts."""


class DialogueLine(msgspec.Struct, frozen=True):
    """What a speaker said."""

    id: str
    speaker: str
    text: str


class LineQuestion(msgspec.Struct, frozen=True):
    """A question, and the ids of the lines that answer it."""

    text: str
    evidence: tuple[str, ...]


class DialogueScript(msgspec.Struct, frozen=True):
    """A dialogue in one language (ISO 639-1), with questions; ``translated`` says that the English one is the same."""

    name: str
    language: str
    lines: tuple[DialogueLine, ...]
    questions: tuple[LineQuestion, ...]
    translated: bool = False

    @property
    def history(self) -> list[imports.HistoryLine]:
        """The lines as a history that can be imported."""
        return [
            imports.HistoryLine(
                text=line.text, session=self.name, speaker=line.speaker, timestamp=SPACING * number, id=line.id
            )
            for number, line in enumerate(self.lines, 1)
        ]


class EnglishWords(WordEncoder):
    """Counts words as if every text were English, without folding accents and without n-grams."""

    def __init__(self) -> None:
        super().__init__()
        self._encoder = qdrant.Bm25(qdrant.Bm25Config(language="english", k=1.0, b=0.0, avg_len=1.0))

    def counts(self, text: str) -> Counts:
        """How often each word occurs: with k1 = 1 and b = 0 the weight of c occurrences is 2c / (c + 1)."""
        vector = self._encoder.embed_document(text)
        return {
            word: round(weight / (2.0 - weight)) for word, weight in zip(vector.indices, vector.values, strict=True)
        }

    def query_words(self, text: str) -> tuple[int, ...]:
        """The distinct words of a query."""
        return tuple(self._encoder.embed_query(text).indices)


@dataclass(frozen=True)
class QuestionRecall:
    """A question's evidence recall at each of :data:`CUTOFFS`.

    Attributes:
        language: of the question.
        memory: that it was asked in.
        translated: whether the English dialogue is a translation of the question's.
    """

    language: str
    memory: str
    recalls: tuple[float, ...]
    translated: bool = False


@dataclass(frozen=True)
class LanguageFigure:
    """Mean evidence recall at each of :data:`CUTOFFS` over ``questions``, and the interval of the first of them."""

    questions: int
    recalls: tuple[float, ...]
    low: float
    high: float


@dataclass(frozen=True)
class ShownFigure:
    """What turns would be shown.

    Attributes:
        evidence: share of the questions that are shown some of their evidence.
        strangers: share of the questions that are shown anything when they are asked in the next dialogue.
    """

    evidence: float
    strangers: float


Recalls = Mapping[str, Sequence[QuestionRecall]]
"""Each question's recall, by the way of counting words."""

Shown = Mapping[str, Mapping[str, ShownFigure]]
"""Each language's figure, by the rule of the floor."""


@command
def multilingual(picture: PictureOption = None, as_json: JsonOption = False) -> None:
    """Evidence recall of the memory in eight languages, beside words that are all taken for English."""
    scripts = read_data("multilingual", DialogueScript)
    recalls, rates = run_async(_measure_here, scripts)
    publish_report(_report(recalls, rates), as_json=as_json, picture=picture)


async def measure(
    scripts: Sequence[DialogueScript], vectors: Vectors, *, words: WordEncoder | None = None
) -> list[QuestionRecall]:
    """Ask every question in its own dialogue, and in all dialogues together."""
    vector_size = len(next(iter(vectors.values())))
    async with fresh_stores(vector_size=vector_size, words=words) as stores:
        recalls = []
        for script in scripts:
            await _remember(stores, script, vectors, memory=script.name)
            if script.language != TRANSLATED:
                await _remember(stores, script, vectors, memory=TOGETHER)
        for script in scripts:
            memories = [script.name] if script.language == TRANSLATED else [script.name, TOGETHER]
            for memory in memories:
                recalls += [await _ask(stores, script, question, vectors, memory) for question in script.questions]
        return recalls


async def measure_shown(scripts: Sequence[DialogueScript], vectors: Vectors, **changes: Any) -> dict[str, ShownFigure]:
    """What questions of each language are shown, with ``changes`` of the memory's settings."""
    evidence: dict[str, list[bool]] = {}
    strangers: dict[str, list[bool]] = {}
    async with fresh_stores(vector_size=len(next(iter(vectors.values())))) as stores:
        settings = msgspec.structs.replace(stores.settings, recency_weight=0.0, **changes)
        for script in scripts:
            await _remember(stores, script, vectors, memory=script.name)
        for number, script in enumerate(scripts):
            stranger = scripts[(number + 1) % len(scripts)].name
            for question in script.questions:
                ids = await _find_shown(stores, question, vectors, script.name, settings)
                evidence.setdefault(script.language, []).append(bool(ids & set(question.evidence)))
                ids = await _find_shown(stores, question, vectors, stranger, settings)
                strangers.setdefault(script.language, []).append(bool(ids))
    return {
        language: ShownFigure(float(np.mean(evidence[language])), float(np.mean(strangers[language])))
        for language in evidence
    }


def figures(recalls: Sequence[QuestionRecall], *, together: bool) -> dict[str, LanguageFigure]:
    """The figure of all languages but English, of each language, and of the dialogue that is also in English."""
    chosen = [recall for recall in recalls if (recall.memory == TOGETHER) == together]
    groups = {ALL: [recall for recall in chosen if recall.language != TRANSLATED]}
    for recall in chosen:
        groups.setdefault(recall.language, []).append(recall)
        if recall.translated:
            groups.setdefault(ORIGINAL, []).append(recall)
    return {name: _figure([recall.recalls for recall in group]) for name, group in groups.items()}


def texts_of(scripts: Sequence[DialogueScript]) -> list[str]:
    """Every text that is embedded, once."""
    lines = [line.embedding_text for script in scripts for line in script.history]
    return list(dict.fromkeys([*lines, *(question.text for script in scripts for question in script.questions)]))


async def embed_texts(texts: Sequence[str], embed: Embed, tick: Callable[[int], None]) -> dict[str, Sequence[float]]:
    """The vectors of the texts."""
    vectors: dict[str, Sequence[float]] = {}
    for at in range(0, len(texts), BATCH):
        batch = texts[at : at + BATCH]
        vectors.update(zip(batch, await embed(batch), strict=True))
        tick(len(batch))
    return vectors


async def _remember(stores: Stores, script: DialogueScript, vectors: Vectors, *, memory: str) -> None:
    episodes: list[Episode] = [
        imports.build_event(entry, vectors[entry.line.embedding_text], tenant=memory, user=READER).episode
        for entry in imports.date_lines(script.history)
    ]
    await project_episodes(stores, episodes)


async def _ask(
    stores: Stores, script: DialogueScript, question: LineQuestion, vectors: Vectors, memory: str
) -> QuestionRecall:
    owner, vector = owner_key(memory, READER, ""), tuple(vectors[question.text])
    lookup = Lookup(owner=owner, vector=vector, text=question.text, limit=max(CUTOFFS))
    settings = msgspec.structs.replace(stores.settings, recency_weight=0.0)
    ids = [hit.match.source_id for hit in await find(stores, lookup, now=0.0, settings=settings)]
    evidence = set(question.evidence)
    recalls = tuple(len(evidence & set(ids[:cutoff])) / len(evidence) for cutoff in CUTOFFS)
    return QuestionRecall(script.language, memory, recalls, script.translated)


async def _find_shown(
    stores: Stores, question: LineQuestion, vectors: Vectors, memory: str, settings: MemorySettings
) -> set[str]:
    """The ids of the lines that a turn with this question would be shown."""
    owner, vector = owner_key(memory, READER, ""), tuple(vectors[question.text])
    lookup = Lookup(owner=owner, vector=vector, text=question.text, limit=settings.candidates)
    ranking = (await find(stores, lookup, now=0.0, settings=settings))[: settings.compared]
    relevant = drop_duplicates(
        keep_relevant(ranking, text=question.text, words=WordEncoder(settings.language), settings=settings)
    )
    return {hit.match.source_id for hit in itertools.islice(relevant, settings.max_hits)}


def _figure(recalls: Sequence[Sequence[float]]) -> LanguageFigure:
    rows = np.array(recalls)
    low, high = bootstrap_interval(rows[:, 0].tolist())
    return LanguageFigure(len(rows), tuple(rows.mean(axis=0).tolist()), low, high)


async def _measure_here(scripts: Sequence[DialogueScript]) -> tuple[Recalls, Shown]:
    texts = texts_of(scripts)
    with progress_bar("embedding", total=len(texts)) as tick:
        async with open_embedder(settings_of(log_level="warning")) as embed:
            vectors = await embed_texts(texts, embed, tick)
    recalls = {
        "English words": await measure(scripts, vectors, words=EnglishWords()),
        "words by language": await measure(scripts, vectors),
    }
    rates = {
        "closeness alone": await measure_shown(scripts, vectors, floor_languages=(*LATIN, *SCRIPT_LANGUAGES, OTHER)),
        "a word, too": await measure_shown(scripts, vectors),
    }
    return recalls, rates


def _report(recalls: Recalls, rates: Shown) -> BenchReport:
    parts = {
        memory: {name: figures(values, together=memory == TOGETHER) for name, values in recalls.items()}
        for memory in ("alone", TOGETHER)
    }
    return BenchReport(
        bench="multilingual",
        fields={
            memory: {name: {row: asdict(figure) for row, figure in rows.items()} for name, rows in sides.items()}
            for memory, sides in parts.items()
        }
        | {
            "cutoffs": CUTOFFS,
            "floor": {name: {row: asdict(figure) for row, figure in rows.items()} for name, rows in rates.items()},
        },
        tables=[*(_table(memory, sides) for memory, sides in parts.items()), _floor_table(rates)],
        chart=interval_chart(
            [
                IntervalBar(label=f"{language}, {name}", middle=row.recalls[0], low=row.low, high=row.high)
                for name, rows in parts["alone"].items()
                for language, row in rows.items()
            ],
            unit="evidence recall@1, 95 % interval",
        ),
    )


def _floor_table(rates: Shown) -> Table:
    heads = [f"{name}: evidence / strangers" for name in rates]
    table = Table(
        "language", *heads, title="questions that are shown evidence, or anything in the next dialogue", box=None
    )
    for language in next(iter(rates.values())):
        cells = [f"{rows[language].evidence:.3f} / {rows[language].strangers:.3f}" for rows in rates.values()]
        table.add_row(language, *cells)
    return table


def _table(memory: str, sides: Mapping[str, Mapping[str, LanguageFigure]]) -> Table:
    heads = [f"{name}: @{' / @'.join(map(str, CUTOFFS))}" for name in sides]
    title = "each dialogue alone" if memory == "alone" else "all dialogues together"
    table = Table("language", "questions", *heads, title=f"evidence recall, {title}", box=None)
    first = next(iter(sides.values()))
    for language, figure in first.items():
        cells = [" / ".join(f"{recall:.3f}" for recall in rows[language].recalls) for rows in sides.values()]
        table.add_row(language, str(figure.questions), *cells)
    return table
