"""How good the router is: ranking, gate, calibration, confusions and niche domains, as JSON and as markdown."""

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from agents.router.checkpoint import load_checkpoint, load_shipped
from agents.router.scoring import OutputScores, Scorer
from agents.shared.domains import Taxonomy, load_taxonomy
from agents.shared.encoder import Floats, encode, load_model
from schemas.errors import InvalidInput

Bools = npt.NDArray[np.bool_]

BINS = 15
"""Equal-width bins of the reliability diagram (Guo et al., 2017)."""


class DomainFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The prompts of one output. ``confused`` counts the outputs that were ranked first instead, most often first."""

    prompts: int
    top1: float
    top3: float
    passed: float
    confused: dict[str, int]


class Bin(msgspec.Struct, frozen=True, kw_only=True):
    """One bar of the reliability diagram: prompts, their mean best score, and the share whose best output is right."""

    prompts: int
    score: float
    right: float


class NicheFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The prompts of one niche domain of a merged output, and how often it is chosen inside that output."""

    prompts: int
    right: float


class RouterFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of the router on labelled prompts; all but the counts are shares in 0..1.

    Attributes:
        prompts: how many prompts are in-domain.
        base_prompts: how many prompts no domain fits.
        several_prompts: how many in-domain prompts have two or more right outputs.
        top1: in-domain prompts whose first output is right.
        top3: in-domain prompts of whose first three outputs one is right.
        single_top1: the same as ``top1``, over the prompts with one right output.
        single_top3: the same as ``top3``, over the prompts with one right output.
        gated_top1: in-domain prompts whose first output is right and passes the gate.
        gated_top3: in-domain prompts of whose first three outputs one is right and passes the gate.
        passing: how many outputs of an in-domain prompt pass the gate, on average (no share).
        several_recall: of the right outputs of prompts with several, the share that passes the gate.
        several_precision: of the outputs that pass the gate for prompts with several, the share that is right.
        coverage: in-domain prompts of which an output passes the gate.
        false_activation: base prompts of which an output passes the gate.
        ece: expected calibration error of the best score, over all prompts.
        threshold: the gate.
        domains: by output, over the prompts with one right output.
        reliability: the bars of the reliability diagram.
        niches: by niche domain of the merged outputs, where they were measured.
    """

    prompts: int
    base_prompts: int
    several_prompts: int
    top1: float
    top3: float
    single_top1: float
    single_top3: float
    gated_top1: float
    gated_top3: float
    passing: float
    several_recall: float
    several_precision: float
    coverage: float
    false_activation: float
    ece: float
    threshold: float
    domains: dict[str, DomainFigures]
    reliability: tuple[Bin, ...]
    niches: dict[str, NicheFigures] = {}

    def summary(self) -> dict[str, float]:
        """The plain numbers, rounded."""
        fields = msgspec.to_builtins(self)
        return {name: round(float(value), 4) for name, value in fields.items() if isinstance(value, int | float)}


def measure(scores: Floats, truth: Sequence[Sequence[str]], labels: Sequence[str], threshold: float) -> RouterFigures:
    """Compare ``[n, outputs]`` scores with the right outputs of each prompt (``truth``; none: base)."""
    order = np.argsort(-scores, axis=1, kind="stable")
    ranked = [[labels[column] for column in row[:3]] for row in order]
    best = scores.max(axis=1)
    reaches_gate: Bools = np.asarray(scores >= threshold)
    passed: Bools = np.any(reaches_gate, axis=1)
    is_right = np.array([[label in right for label in labels] for right in truth])
    hits = np.take_along_axis(is_right, order[:, :3], axis=1)
    right_first: Bools = hits[:, 0]
    right_in_three: Bools = np.any(hits, axis=1)
    passed_in_three: Bools = np.any(np.take_along_axis(is_right & reaches_gate, order[:, :3], axis=1), axis=1)
    right_counts = is_right.sum(axis=1)
    inside, single, several = right_counts > 0, right_counts == 1, right_counts > 1
    bins = _reliability_bars(best, right_first)
    return RouterFigures(
        prompts=int(inside.sum()),
        base_prompts=int((~inside).sum()),
        several_prompts=int(several.sum()),
        top1=_share(right_first[inside]),
        top3=_share(right_in_three[inside]),
        single_top1=_share(right_first[single]),
        single_top3=_share(right_in_three[single]),
        gated_top1=_share((right_first & passed)[inside]),
        gated_top3=_share(passed_in_three[inside]),
        passing=_share(reaches_gate.sum(axis=1)[inside]),
        several_recall=_share(reaches_gate[several][is_right[several]]),
        several_precision=_share(is_right[several][reaches_gate[several]]),
        coverage=_share(passed[inside]),
        false_activation=_share(passed[~inside]),
        ece=sum(bar.prompts * abs(bar.score - bar.right) for bar in bins) / max(1, len(best)),
        threshold=threshold,
        domains=_figures_by_domain(ranked, truth, passed),
        reliability=bins,
    )


def _share(hits: Bools | npt.NDArray[np.integer]) -> float:
    return float(hits.mean()) if len(hits) else 0.0


def _figures_by_domain(
    ranked: Sequence[Sequence[str]],
    truth: Sequence[Sequence[str]],
    passed: Bools,
) -> dict[str, DomainFigures]:
    rows: defaultdict[str, list[int]] = defaultdict(list)
    for index, right in enumerate(truth):
        if len(right) == 1:
            rows[right[0]].append(index)
    return {
        name: DomainFigures(
            prompts=len(rows[name]),
            top1=sum(ranked[row][0] == name for row in rows[name]) / len(rows[name]),
            top3=sum(name in ranked[row] for row in rows[name]) / len(rows[name]),
            passed=_share(passed[rows[name]]),
            confused=dict(Counter(ranked[row][0] for row in rows[name] if ranked[row][0] != name).most_common()),
        )
        for name in sorted(rows)
    }


def _reliability_bars(best: Floats, right: Bools) -> tuple[Bin, ...]:
    places = np.minimum((best * BINS).astype(int), BINS - 1)
    bars = []
    for place in range(BINS):
        inside = places == place
        if inside.any():
            bars.append(
                Bin(prompts=int(inside.sum()), score=float(best[inside].mean()), right=float(right[inside].mean()))
            )
    return tuple(bars)


def evaluate(
    path: Path, *, embedder: Path, checkpoint: Path | None = None, json_out: Path | None = None
) -> tuple[RouterFigures, str]:
    """Score a JSON-lines file of ``{"prompt", "domain"}`` or ``{"prompt", "labels"}`` (no label: base).

    Returns:
        The figures, and a markdown report of them; ``json_out`` gets the figures as JSON.

    Raises:
        InvalidInput: a line of the file is not a labelled prompt.
    """
    prompts, labels = read_labelled_prompts(path)
    taxonomy = load_taxonomy()
    scorer = Scorer(load_shipped() if checkpoint is None else load_checkpoint(checkpoint), taxonomy)
    model = load_model(embedder)
    embeddings = np.concatenate([encode(model, prompts[at : at + 64]) for at in range(0, len(prompts), 64)])
    results = scorer.score(prompts, embeddings)
    scores = np.array([[result.outputs[output] for output in taxonomy.outputs] for result in results], dtype=np.float32)
    truth = [taxonomy.outputs_of(right) for right in labels]
    figures = measure(scores, truth, taxonomy.outputs, scorer.checkpoint.meta.threshold)
    figures = msgspec.structs.replace(figures, niches=niche_figures(results, labels, taxonomy))
    if json_out is not None:
        json_out.write_bytes(msgspec.json.format(msgspec.json.encode(figures)) + b"\n")
    return figures, report(figures)


def niche_figures(
    results: Sequence[OutputScores], labels: Sequence[Sequence[str]], taxonomy: Taxonomy
) -> dict[str, NicheFigures]:
    """How often the right niche domain is chosen inside its output, over the prompts with one label."""
    hits: defaultdict[str, list[bool]] = defaultdict(list)
    for result, right in zip(results, labels, strict=True):
        for output, niches in taxonomy.merged.items():
            if len(right) == 1 and right[0] in niches:
                hits[right[0]].append(result.niche(output) == right[0])
    return {
        name: NicheFigures(prompts=len(outcomes), right=sum(outcomes) / len(outcomes))
        for name, outcomes in sorted(hits.items())
    }


def read_labelled_prompts(path: Path) -> tuple[list[str], list[tuple[str, ...]]]:
    """Prompts and their right domains, sorted; none is base.

    Raises:
        InvalidInput: the file is empty or a line is not a labelled prompt.
        SetupError: a label is no domain.
    """
    taxonomy = load_taxonomy()
    prompts: list[str] = []
    right: list[tuple[str, ...]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            document = json.loads(line)
            labels = [document["domain"]] if "domain" in document else list(document["labels"])
            prompts.append(str(document["prompt"]))
        except (ValueError, KeyError, TypeError) as error:
            raise InvalidInput(
                f'{path}, line {number}: expected {{"prompt": "...", "domain": "..."}}.', param="prompt"
            ) from error
        right.append(tuple(sorted({label for label in labels if label not in ("", "base")})))
        taxonomy.outputs_of(right[-1])
    if not prompts:
        raise InvalidInput(f"{path} is empty.", param="prompt")
    return prompts, right


def report(figures: RouterFigures) -> str:
    """The figures as markdown: the goals, then a line for each output with what it was taken for."""
    several = (
        f"| {figures.several_prompts} prompts with several labels | "
        f"{figures.several_recall:.1%} of the labels pass, {figures.several_precision:.1%} of what passes is right |"
    )
    lines = [
        "| figure | value |",
        "|---|---|",
        f"| prompts | {figures.prompts} in-domain, {figures.base_prompts} base |",
        f"| top-1, top-3 | {figures.top1:.1%}, {figures.top3:.1%} |",
        f"| top-1, top-3, prompts with one label | {figures.single_top1:.1%}, {figures.single_top3:.1%} |",
        f"| top-1, top-3, of what passes the gate | {figures.gated_top1:.1%}, {figures.gated_top3:.1%} |",
        f"| outputs that pass, of an in-domain prompt | {figures.passing:.2f} |",
        *([several] if figures.several_prompts else []),
        f"| in-domain prompts through the gate ({figures.threshold:.3f}) | {figures.coverage:.1%} |",
        *([f"| base prompts through the gate | {figures.false_activation:.1%} |"] if figures.base_prompts else []),
        f"| expected calibration error | {figures.ece:.3f} |",
        *(
            f"| {name} inside its output | {entry.right:.1%} of {entry.prompts} |"
            for name, entry in figures.niches.items()
        ),
        "",
        "| domain | prompts | top-1 | top-3 | through the gate | taken for |",
        "|---|---|---|---|---|---|",
    ]
    for name, entry in figures.domains.items():
        confused = ", ".join(f"{output} {count}" for output, count in [*entry.confused.items()][:4])
        lines.append(
            f"| {name} | {entry.prompts} | {entry.top1:.0%} | {entry.top3:.0%} | {entry.passed:.0%} | {confused} |"
        )
    return "\n".join(lines) + "\n"
