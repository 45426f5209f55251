"""``kiki bench superseding``: of labelled pairs of statements, which newer one replaces the older, and is that right?

The rule of recall and of the projection stands beside the cosine alone: from 0.85, which was the rule before, and from
the threshold that is best for it on the development half. The held-out half chose nothing.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np
import typer
from numpy.typing import NDArray
from rich.table import Table

from agents.memory.context import Vector, unit
from agents.memory.settings import MemorySettings
from agents.memory.superseding import least_cosine, says_otherwise
from runtime.bench.harness import (
    BenchReport,
    JsonOption,
    PictureOption,
    Tick,
    progress_bar,
    publish_report,
    read_data,
)
from runtime.bench.plots import bar_chart
from runtime.cli import command, run_async, settings_of
from runtime.local_embedder import BATCH, Embed, open_embedder

RULE, COSINE, BEFORE = "claims", "cosine alone", "cosine 0.85"
RULES = (RULE, COSINE, BEFORE)
DEVELOPMENT = "development"


class StatementPair(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Two statements of one speaker; ``replaced`` says whether the newer one replaces the older."""

    half: Literal["development", "held-out"]
    language: Literal["en", "fr"]
    kind: str
    older: str
    newer: str
    replaced: bool


@dataclass(frozen=True)
class PairVerdict:
    """What each rule says of a pair, with the pair's cosine."""

    pair: StatementPair
    cosine: float
    says: Mapping[str, bool]


@dataclass(frozen=True)
class Accuracy:
    """How often a rule is right where it says "replaced" (precision), and on those that are (recall)."""

    pairs: int
    right: int
    wrong: int
    missed: int

    @property
    def precision(self) -> float:
        """Share of what the rule replaces that is replaced; 1 where it replaces nothing."""
        return self.right / (self.right + self.wrong) if self.right + self.wrong else 1.0

    @property
    def recall(self) -> float:
        """Share of what is replaced that the rule finds; 1 where nothing is."""
        return self.right / (self.right + self.missed) if self.right + self.missed else 1.0


@command
def superseding(
    errors: Annotated[bool, typer.Option(help="List the pairs that the rule gets wrong.")] = False,
    picture: PictureOption = None,
    as_json: JsonOption = False,
) -> None:
    """Precision and recall of what replaces what, on labelled pairs in English and French."""
    pairs = read_data("superseding", StatementPair)
    settings = settings_of(log_level="warning")

    async def embed_here() -> Mapping[str, Vector]:
        texts = sorted({text for pair in pairs for text in (pair.older, pair.newer)})
        with progress_bar("embedding", total=len(texts)) as tick:
            async with open_embedder(settings) as embed:
                return await embed_texts(texts, embed, tick)

    verdicts, threshold = judge_pairs(pairs, run_async(embed_here), embedder=settings.embedder)
    publish_report(_report(verdicts, threshold, settings.embedder, errors=errors), as_json=as_json, picture=picture)


async def embed_texts(texts: Sequence[str], embed: Embed, tick: Tick) -> dict[str, Vector]:
    """The unit vector of each text."""
    vectors: dict[str, Vector] = {}
    for at in range(0, len(texts), BATCH):
        batch = texts[at : at + BATCH]
        vectors.update(zip(batch, map(unit, await embed(batch)), strict=True))
        tick(len(batch))
    return vectors


def judge_pairs(
    pairs: Sequence[StatementPair], vectors: Mapping[str, Vector], *, embedder: str
) -> tuple[list[PairVerdict], float]:
    """What both rules say of each pair, and the cosine from which the cosine alone calls one replaced."""
    cosines = [float(vectors[pair.older] @ vectors[pair.newer]) for pair in pairs]
    threshold = best_threshold(
        (cosine, pair.replaced) for cosine, pair in zip(cosines, pairs, strict=True) if pair.half == DEVELOPMENT
    )
    least = least_cosine(embedder, MemorySettings(data_dir=Path()).same_fact)
    verdicts = [
        PairVerdict(
            pair,
            cosine,
            {
                RULE: cosine >= least and says_otherwise(pair.newer, pair.older),
                COSINE: cosine >= threshold,
                BEFORE: cosine >= 0.85,
            },
        )
        for cosine, pair in zip(cosines, pairs, strict=True)
    ]
    return verdicts, threshold


def best_threshold(labels: Iterable[tuple[float, bool]]) -> float:
    """The cosine with the best F1 over pairs of a cosine and whether the older is replaced; the higher of equals."""
    cosines, replaced = (np.asarray(column) for column in zip(*labels, strict=True))
    scores = [(_f1(replaced, cosines >= cosine), float(cosine)) for cosine in cosines]
    return max(scores)[1]


def count_verdicts(verdicts: Iterable[PairVerdict], rule: str) -> Accuracy:
    """How a rule does on these pairs."""
    labels = [(verdict.says[rule], verdict.pair.replaced) for verdict in verdicts]
    return Accuracy(
        pairs=len(labels),
        right=sum(says and replaced for says, replaced in labels),
        wrong=sum(says and not replaced for says, replaced in labels),
        missed=sum(replaced and not says for says, replaced in labels),
    )


def _f1(replaced: NDArray[np.bool_], says: NDArray[np.bool_]) -> float:
    return float(2 * (replaced & says).sum() / (replaced.sum() + says.sum()))


def _parts(verdicts: Sequence[PairVerdict]) -> dict[tuple[str, str], list[PairVerdict]]:
    """The pairs by half and language, and each half as a whole."""
    parts: dict[tuple[str, str], list[PairVerdict]] = {}
    for verdict in verdicts:
        for language in (verdict.pair.language, "both"):
            parts.setdefault((verdict.pair.half, language), []).append(verdict)
    return dict(sorted(parts.items()))


def _report(verdicts: Sequence[PairVerdict], threshold: float, embedder: str, *, errors: bool) -> BenchReport:
    accuracies = {
        (*part, rule): count_verdicts(members, rule) for part, members in _parts(verdicts).items() for rule in RULES
    }
    wrong = [verdict for verdict in verdicts if verdict.says[RULE] != verdict.pair.replaced]
    table = Table("half", "language", "rule", "pairs", "precision", "recall", title="superseding", box=None)
    for (half, language, rule), row in accuracies.items():
        shares = (f"{row.precision:.3f}", f"{row.recall:.3f}")
        table.add_row(half, language, rule, str(row.pairs), *shares)
    labels = [f"{half}\n{language}" for half, language in _parts(verdicts)]
    means: dict[str, list[float | None]] = {rule: [] for rule in RULES}
    for (*_, rule), row in accuracies.items():
        means[rule].append((row.precision + row.recall) / 2)
    return BenchReport(
        bench="superseding",
        fields={
            "model": embedder,
            "cosine_threshold": threshold,
            "accuracy": [
                dict(half=half, language=language, rule=rule, precision=row.precision, recall=row.recall, **asdict(row))
                for (half, language, rule), row in accuracies.items()
            ],
            "errors": [msgspec.to_builtins(verdict.pair) for verdict in wrong],
        },
        tables=[table, *([_error_table(wrong)] if errors else [])],
        notes=[f"{embedder}; the cosine alone replaces from {threshold:.3f} on"],
        chart=bar_chart(labels, means, unit="mean of precision and recall"),
    )


def _error_table(wrong: Sequence[PairVerdict]) -> Table:
    table = Table("half", "kind", "older", "newer", "label", title="pairs that the rule gets wrong", box=None)
    for verdict in wrong:
        pair = verdict.pair
        table.add_row(pair.half, pair.kind, pair.older, pair.newer, "replaced" if pair.replaced else "both stand")
    return table
