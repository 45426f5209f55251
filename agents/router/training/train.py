"""Training the router: from the corpus to a checkpoint; seeded, on one thread, the same bytes each time on one machine.

The loss is that of multinomial logistic regression in which base is the reference class with logit 0: for an in-domain
prompt its domains must score above base, for a base prompt base must score above every domain, and several right
domains share the probability. Targets are smoothed (Szegedy et al., 2016), because borders between domains are gradual.

1. Cross-fitting: for each of five folds, the classifier and the word model are trained on the other folds and give the
   fold's prompts held-out logits. Prompts that are near relatives are in the same fold.
2. On the held-out logits three things are fitted or chosen: the shares of classifier and word model in their sum
   (stacking; Wolpert, 1992), the calibration of the sum (Platt, 1999), and the gate.
3. Both models are trained on all prompts. Shares and calibration are multiplied into their last layers, so that serving
   only adds a sum and a sigmoid.

The classifier gets a calibration and a gate of its own, too, because it can be exported without the word model.
"""

import contextlib
import hashlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress

from agents.router.checkpoint import (
    BARE_FORMAT,
    Checkpoint,
    CheckpointMeta,
    load_checkpoint,
    load_shipped,
    save_checkpoint,
)
from agents.router.classifier import TENSORS, Classifier, logits_of, scores_of
from agents.router.fit import minimise
from agents.router.niche import NicheHead, fit_head
from agents.router.training.corpus import Corpus, duplicates, kind_of, load_corpus
from agents.router.training.evaluation import RouterFigures, measure
from agents.router.words import WordModel, fit_words
from agents.shared.domains import Taxonomy, load_taxonomy
from agents.shared.encoder import Floats, encode, load_model
from schemas.errors import SetupError

Embed = Callable[[Sequence[str]], Floats]
INPUT_SCALE = 8.0
"""A unit vector of width 768 has tiny entries; scaled by this the layers learn at Adam's usual step size."""

SIMILARITY_ROWS = 1024
"""Rows whose cosines are computed at once."""

EMBED_BATCH = 64
"""Prompts in one forward pass of the embedder."""

RELATED = 0.8
"""Cosine from which two prompts are relatives, which must be in the same fold."""

DIGITS = 5
"""Decimals to which embeddings are rounded, so that the last bits of a forward pass do not change the training."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How to train.

    Attributes:
        hidden: width of the hidden layer.
        epochs: passes over the corpus.
        batch: examples in a step.
        rate: AdamW's learning rate, decayed to 0 by a cosine.
        decay: AdamW's weight decay.
        dropout: share of hidden units left out.
        smoothing: share of each target's probability that is spread over all classes alike.
        noise: length of the Gaussian noise added to each unit vector, against over-fitting.
        least: how many prompts must hold a word, or a piece of one, for it to count.
        inverse_penalty: ``C`` of the word model's logistic regression; a larger one fits the corpus more closely.
        rivalry: what a label's logit loses for each unit that it is behind the best label's: with a larger one fewer
            domains pass the gate together. See docs/explain/router-training.md.
        folds: how many folds the cross-fitting has.
        false_activation: share of held-out base prompts that may pass the gate.
        seed: of all random numbers.
    """

    hidden: int = 512
    epochs: int = 30
    batch: int = 256
    rate: float = 2e-3
    decay: float = 1e-2
    dropout: float = 0.3
    smoothing: float = 0.2
    noise: float = 0.7
    least: int = 3
    inverse_penalty: float = 10.0
    rivalry: float = 0.5
    folds: int = 5
    false_activation: float = 0.04
    seed: int = 0


def train(
    *,
    embedder: Path,
    out: Path,
    corpus: Path | None = None,
    settings: TrainingSettings | None = None,
    progress: bool = True,
) -> RouterFigures:
    """Train from a corpus folder (the shipped one by default) and write the checkpoint to ``out``.

    Returns:
        The figures of the cross-fitted, held-out prompts.

    Raises:
        SetupError: the corpus or the embedder is not what it should be.
    """
    examples = load_corpus(corpus)
    if pairs := duplicates(examples.prompts):
        first, second, near = pairs[0]
        raise SetupError(
            f"the corpus has {len(pairs)} near-duplicates; the first ({near:.2f}): "
            f"'{examples.prompts[first]}' and '{examples.prompts[second]}'. Remove one of them.",
            param="corpus",
        )
    model = load_model(embedder)
    with Progress(disable=not progress) as bar:
        task = bar.add_task("embedding", total=len(examples.examples))

        def embed(prompts: Sequence[str]) -> Floats:
            """Embed prompts of similar length together, because a batch is padded to its longest prompt."""
            order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
            vectors = np.empty((len(prompts), model.get_embedding_dimension()), np.float32)
            for at in range(0, len(order), EMBED_BATCH):
                rows = order[at : at + EMBED_BATCH]
                vectors[rows] = encode(model, [prompts[row] for row in rows])
                bar.advance(task, len(rows))
            return vectors

        checkpoint, figures = fit(
            examples,
            embed(examples.prompts),
            embedder_sha256=_file_digest(embedder / "model.safetensors"),
            settings=settings or TrainingSettings(),
            bar=bar,
        )
    save_checkpoint(checkpoint, out)
    return figures


def _file_digest(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def export(*, out: Path, checkpoint: Path | None = None) -> None:
    """Write a bare checkpoint: the classifier's four tensors, its labels, and its gate without the word model."""
    source = load_shipped() if checkpoint is None else load_checkpoint(checkpoint)
    threshold = source.meta.threshold if source.words is None else source.meta.bare_threshold
    bare = CheckpointMeta(format=BARE_FORMAT, labels=source.meta.labels, threshold=threshold)
    save_checkpoint(Checkpoint(classifier=source.classifier, meta=bare), out)


def fit(
    corpus: Corpus,
    embeddings: Floats,
    *,
    embedder_sha256: str,
    settings: TrainingSettings,
    bar: Progress | None = None,
) -> tuple[Checkpoint, RouterFigures]:
    """Train on ``[n, width]`` unit vectors of the corpus's prompts, in its order."""
    taxonomy = load_taxonomy()
    inputs = torch.from_numpy(np.round(embeddings, DIGITS).astype(np.float32))
    targets = _targets(corpus, taxonomy)
    folds = _folds(corpus, relatives(inputs.numpy()), settings.folds)
    task = None if bar is None else bar.add_task("training", total=settings.folds + 1)
    prompts = corpus.prompts
    with _make_reproducible():
        classifier_logits, word_logits = torch.zeros_like(targets), torch.zeros_like(targets)
        for fold in range(settings.folds):
            in_training = folds != fold
            tensors = _fit_classifier(inputs[in_training], targets[in_training], settings)
            words = _fit_words([*compress(prompts, in_training)], targets[in_training], settings)
            with torch.inference_mode():
                classifier_logits[~in_training] = logits_of(tensors, inputs[~in_training])
            word_logits[~in_training] = torch.from_numpy(words.logits([*compress(prompts, ~in_training)]))
            if bar is not None and task is not None:
                bar.advance(task)
        # All that follows is fitted on held-out logits, and then applied to models that are trained on all prompts.
        alone = _fit_platt(classifier_logits, targets)
        shares = _fit_shares(classifier_logits, word_logits, targets)
        combined = classifier_logits * shares[0] + word_logits * shares[1]
        scale, shift = _fit_platt(combined, targets)
        tensors = _calibrated(_fit_classifier(inputs, targets, settings), *alone)
        words = _fit_words(prompts, targets, settings)
        words = _calibrated_words(
            words, alone, classifier_factor=scale * shares[0], word_factor=scale * shares[1], shift=shift
        )
        if bar is not None and task is not None:
            bar.advance(task)
        heads = _fit_heads(corpus, inputs, taxonomy)
    base = ~targets.any(1).numpy()
    scores = scores_of((combined * scale + shift).numpy(), rivalry=settings.rivalry)
    threshold = gate(scores[base], settings.false_activation)
    bare_scores = scores_of((classifier_logits * alone[0] + alone[1]).numpy())
    truth = [taxonomy.outputs_of(example.labels) for example in corpus.examples]
    figures = measure(scores, truth, taxonomy.outputs, threshold)
    meta = CheckpointMeta(
        labels=taxonomy.outputs,
        threshold=threshold,
        rivalry=settings.rivalry,
        bare_threshold=gate(bare_scores[base], settings.false_activation),
        corpus_sha256=corpus.digest(),
        embedder_sha256=embedder_sha256,
        seed=settings.seed,
        held_out=figures.summary(),
        niches={output: head.names for output, head in heads.items()},
    )
    classifier = Classifier(tensors={name: tensors[name] for name in TENSORS}, labels=taxonomy.outputs)
    return Checkpoint(classifier=classifier, meta=meta, heads=heads, words=words), figures


def gate(base_scores: Floats, false_activation: float) -> float:
    """The smallest threshold, in steps of 0.0001, that lets through at most that share of base prompts."""
    best = np.sort(base_scores.max(axis=1))  # a base prompt passes when its best score does
    passing = int(false_activation * len(best) + 1e-9)
    highest_shut_out = float(best[len(best) - 1 - passing])
    return round((math.floor(highest_shut_out * 1e4) + 1) / 1e4, 4)


def _targets(corpus: Corpus, taxonomy: Taxonomy) -> torch.Tensor:
    column = {output: index for index, output in enumerate(taxonomy.outputs)}
    targets = torch.zeros(len(corpus.examples), len(column))
    for row, example in enumerate(corpus.examples):
        for label in example.labels:
            targets[row, column[taxonomy.output_of(label)]] = 1.0
    return targets


def relatives(vectors: Floats, *, near: float = RELATED) -> list[int]:
    """For each row of unit vectors the first row of its family: the rows joined by chains of cosines >= ``near``."""
    # Union-find: each row points towards the first row of its family; find_root shortens the way that it goes.
    parents = list(range(len(vectors)))

    def find_root(row: int) -> int:
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = parents[row]
        return row

    for start in range(0, len(vectors), SIMILARITY_ROWS):
        close = vectors[start : start + SIMILARITY_ROWS] @ vectors.T >= near
        for row, column in zip(*np.nonzero(close), strict=True):
            first, second = sorted((find_root(start + int(row)), find_root(int(column))))
            parents[second] = first
    return [find_root(row) for row in range(len(vectors))]


def _folds(corpus: Corpus, families: Sequence[int], folds: int) -> torch.Tensor:
    """The fold of each example: whole families, large ones first, each to the fold that has least of its kind."""
    sizes = Counter(families)
    loads_by_kind: dict[str, list[int]] = {}
    fold_of: dict[int, int] = {}
    for family in sorted(sizes, key=lambda family: (-sizes[family], family)):
        loads = loads_by_kind.setdefault(kind_of(corpus.examples[family]), [0] * folds)
        fold_of[family] = loads.index(min(loads))
        loads[fold_of[family]] += sizes[family]
    return torch.tensor([fold_of[family] for family in families])


def _with_base(targets: torch.Tensor) -> torch.Tensor:
    """``[n, outputs + 1]`` distributions: the last column is base."""
    full = torch.cat([targets, (targets.sum(1, keepdim=True) == 0).float()], dim=1)
    return full / full.sum(1, keepdim=True)


def _smoothed(distributions: torch.Tensor, smoothing: float) -> torch.Tensor:
    return (1.0 - smoothing) * distributions + smoothing / distributions.shape[1]


def _class_weights(distributions: torch.Tensor) -> torch.Tensor:
    """One weight an example: the square root of how rare its classes are, with mean 1."""
    rarity = (distributions.sum(0).mean() / distributions.sum(0).clamp(min=1.0)).sqrt()
    weights = distributions @ rarity
    return weights / weights.mean()


def _fit_classifier(inputs: torch.Tensor, targets: torch.Tensor, settings: TrainingSettings) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(settings.seed)
    distributions = _with_base(targets)
    weights = _class_weights(distributions)
    distributions = _smoothed(distributions, settings.smoothing)
    tensors = _initial_tensors(inputs.shape[1], settings.hidden, targets.shape[1], draw)
    optimiser = torch.optim.AdamW(list(tensors.values()), lr=settings.rate, weight_decay=settings.decay)
    batches = -(-len(inputs) // settings.batch)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.epochs * batches)
    for _ in range(settings.epochs):
        for rows in torch.randperm(len(inputs), generator=draw).split(settings.batch):
            noisy = inputs[rows] + settings.noise * torch.randn(len(rows), inputs.shape[1], generator=draw) / np.sqrt(
                inputs.shape[1]
            )
            noisy = torch.nn.functional.normalize(noisy, dim=1) * INPUT_SCALE
            mask = torch.rand(len(rows), settings.hidden, generator=draw) >= settings.dropout
            logits = logits_of(tensors, noisy, dropout=mask / (1.0 - settings.dropout))
            loss = _loss(logits, distributions[rows], weights[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            cosine.step()
    parameters = {name: tensor.detach() for name, tensor in tensors.items()}
    parameters["0.weight"] = parameters["0.weight"] * INPUT_SCALE
    return parameters


def _fit_words(prompts: Sequence[str], targets: torch.Tensor, settings: TrainingSettings) -> WordModel:
    distributions = _with_base(targets)
    return fit_words(
        prompts,
        distributions.numpy(),
        _class_weights(distributions).numpy(),
        least=settings.least,
        inverse_penalty=settings.inverse_penalty,
    )


def _initial_tensors(width: int, hidden: int, outputs: int, draw: torch.Generator) -> dict[str, torch.Tensor]:
    """Uniform in +-1/sqrt(fan in), torch's own start of a linear layer."""
    shapes = {"0.weight": (hidden, width), "0.bias": (hidden,), "3.weight": (outputs, hidden), "3.bias": (outputs,)}
    bounds = {"0": width**-0.5, "3": hidden**-0.5}
    return {
        name: ((torch.rand(*shape, generator=draw) * 2 - 1) * bounds[name[0]]).requires_grad_()
        for name, shape in shapes.items()
    }


def _loss(logits: torch.Tensor, distributions: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    with_base = torch.cat([logits, torch.zeros(len(logits), 1)], dim=1)
    return -((distributions * torch.log_softmax(with_base, dim=1)).sum(1) * weights).mean()


def _fit_shares(
    classifier_logits: torch.Tensor, word_logits: torch.Tensor, targets: torch.Tensor
) -> tuple[float, float]:
    """The factors of the classifier's and the word model's held-out logits in their sum, by maximum likelihood."""
    distributions, weights = _with_base(targets), torch.ones(len(targets))
    shares = torch.full((2,), 0.5, requires_grad=True)
    minimise([shares], lambda: _loss(classifier_logits * shares[0] + word_logits * shares[1], distributions, weights))
    return float(shares[0].detach()), float(shares[1].detach())


def _fit_platt(logits: torch.Tensor, targets: torch.Tensor) -> tuple[float, float]:
    """Scale and shift that make the sigmoid of held-out logits a probability, by maximum likelihood.

    Fitted on each prompt's best label alone: that is the score that the gate and the ECE look at.
    """
    best = logits.max(dim=1, keepdim=True)
    best_targets = targets.gather(1, best.indices)
    scale, shift = torch.ones(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    minimise(
        [scale, shift],
        lambda: torch.nn.functional.binary_cross_entropy_with_logits(best.values * scale + shift, best_targets),
    )
    return float(scale.detach()), float(shift.detach())


def _calibrated_words(
    words: WordModel, alone: tuple[float, float], *, classifier_factor: float, word_factor: float, shift: float
) -> WordModel:
    """The word model, scaled and shifted so that its sum with the classifier is calibrated.

    The classifier's stored logits carry its own calibration already (``alone``), so the word model's ``scale`` and bias
    undo that: scale * (alone_scale * logit + alone_shift) + bias must be classifier_factor * logit + shift.

    Args:
        words: the word model as it was trained.
        alone: scale and shift of the classifier's own calibration.
        classifier_factor: of the classifier's raw logits in the sum.
        word_factor: of the word model's raw logits in the sum.
        shift: what is added to the sum.
    """
    scale = classifier_factor / alone[0]
    return replace(
        words,
        weight=words.weight * np.float32(word_factor),
        bias=words.bias * np.float32(word_factor) + np.float32(shift - scale * alone[1]),
        scale=scale,
    )


def _calibrated(tensors: dict[str, torch.Tensor], scale: float, shift: float) -> dict[str, torch.Tensor]:
    return {**tensors, "3.weight": tensors["3.weight"] * scale, "3.bias": tensors["3.bias"] * scale + shift}


def _fit_heads(corpus: Corpus, inputs: torch.Tensor, taxonomy: Taxonomy) -> dict[str, NicheHead]:
    heads = {}
    for output, names in taxonomy.merged.items():
        shares = torch.tensor([[float(name in example.labels) for name in names] for example in corpus.examples])
        rows = shares.sum(1) > 0
        heads[output] = fit_head(names, inputs[rows], shares[rows] / shares[rows].sum(1, keepdim=True))
    return heads


@contextlib.contextmanager
def _make_reproducible() -> Iterator[None]:
    """One thread and deterministic algorithms in this context: sums in another order would change the last bits."""
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
