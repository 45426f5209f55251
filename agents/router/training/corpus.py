"""The prompts that the router learns from: one JSON line each, in a file for each domain, ``base`` and ``multi``."""

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import msgspec

from agents.shared.domains import Taxonomy, load_taxonomy
from schemas.errors import SetupError

NGRAM = 4
"""Characters in a shingle of the near-duplicate check."""

NEAR = 0.85
"""Jaccard similarity of shingles from which two prompts are near-duplicates."""


class CorpusExample(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A prompt with the niche domains that fit it; none: the base model should answer it."""

    prompt: str
    labels: tuple[str, ...]
    lang: str = "en"


@dataclass(frozen=True)
class Corpus:
    """All examples, in the order of the files' names and lines."""

    examples: tuple[CorpusExample, ...]

    @property
    def prompts(self) -> list[str]:
        """The prompts' texts, in order."""
        return [example.prompt for example in self.examples]

    def digest(self) -> str:
        """sha256 over the examples in canonical order: moving a line changes nothing, changing one does."""
        lines = sorted(
            json.dumps([example.prompt, sorted(example.labels), example.lang], ensure_ascii=False)
            for example in self.examples
        )
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()

    def counts(self) -> Counter[str]:
        """How many examples each kind has: each niche domain alone, ``base``, and ``multi``."""
        return Counter(kind_of(example) for example in self.examples)


def kind_of(example: CorpusExample) -> str:
    """The kind of an example, which is its file's name: its only niche domain, or ``multi``, or ``base``."""
    return example.labels[0] if len(example.labels) == 1 else ("multi" if example.labels else "base")


def load_corpus(folder: Path | None = None) -> Corpus:
    """Read a corpus folder, the shipped one by default.

    Raises:
        SetupError: a line is not an example, or stands in the wrong file.
    """
    root = files("configs").joinpath("router", "corpus") if folder is None else folder
    examples: list[CorpusExample] = []
    for file in sorted(root.iterdir(), key=lambda entry: entry.name):
        if file.name.endswith(".jsonl"):
            examples.extend(_read_examples(file.name, file.read_text(encoding="utf-8")))
    if not examples:
        raise SetupError(f"{root} holds no *.jsonl file: the router has nothing to learn from.", param="corpus")
    return Corpus(tuple(examples))


def _read_examples(name: str, text: str) -> Iterator[CorpusExample]:
    taxonomy = load_taxonomy()
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            example = msgspec.json.decode(line, type=CorpusExample)
        except msgspec.DecodeError as error:
            raise SetupError(f"{name}, line {number}: {error}.", param="corpus") from error
        _check_example(example, f"{name}, line {number}", name.removesuffix(".jsonl"), taxonomy)
        yield example


def _check_example(example: CorpusExample, where: str, kind: str, taxonomy: Taxonomy) -> None:
    unknown = [label for label in example.labels if label not in taxonomy.domains]
    if unknown:
        raise SetupError(f"{where}: there is no domain '{unknown[0]}'.", param="labels")
    if not example.prompt.strip():
        raise SetupError(f"{where}: the prompt is empty.", param="prompt")
    if kind_of(example) != kind:
        raise SetupError(f"{where}: an example of '{kind_of(example)}' stands in the file of '{kind}'.", param="labels")


def normalised(prompt: str) -> str:
    """Lower case, letters and digits only, single spaces."""
    letters = "".join(letter if letter.isalnum() else " " for letter in prompt.lower())
    return " ".join(letters.split()) or prompt


def duplicates(prompts: Sequence[str], *, near: float = NEAR) -> list[tuple[int, int, float]]:
    """Pairs of prompts whose shingles have a Jaccard similarity of ``near`` or more, across all domains.

    Shingles are character n-grams of the normalised text. Prompts are compared when they share their rarest
    shingles, which every pair above the bound must (prefix filtering; Chaudhuri et al., ICDE 2006).

    Returns:
        ``(earlier, later, similarity)``, indices into ``prompts``.
    """
    sets = [_shingles(prompt) for prompt in prompts]
    frequency = Counter(shingle for shingles in sets for shingle in shingles)
    by_rarity = sorted(frequency, key=lambda shingle: (frequency[shingle], shingle))
    rank = {shingle: number for number, shingle in enumerate(by_rarity)}
    rows_by_shingle: defaultdict[int, list[int]] = defaultdict(list)
    pairs: list[tuple[int, int, float]] = []
    for index, shingles in enumerate(sets):
        # Similar sets of n shingles share at least near * n of them, so one that is shared must be among the rarest
        # n - near * n + 1; a pair that shares none of those need not be compared.
        size = len(shingles)
        prefix = sorted(rank[shingle] for shingle in shingles)[: size - int(near * size) + 1]
        for candidate in sorted({earlier for number in prefix for earlier in rows_by_shingle[number]}):
            other_size = len(sets[candidate])
            if min(size, other_size) < near * max(size, other_size):
                continue  # even one inside the other is not as similar
            shared = len(shingles & sets[candidate])
            similarity = shared / (size + other_size - shared)
            if similarity >= near:
                pairs.append((candidate, index, similarity))
        for number in prefix:
            rows_by_shingle[number].append(index)
    return pairs


def _shingles(prompt: str) -> frozenset[str]:
    text = f" {normalised(prompt)} "
    return frozenset(text[at : at + NGRAM] for at in range(max(1, len(text) - NGRAM + 1)))
