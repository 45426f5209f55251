"""The words: what they learn, what they read, and how they stand beside the classifier in a checkpoint."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from agents.router.checkpoint import WEIGHTS, Checkpoint, CheckpointMeta, load_checkpoint, load_shipped, save_checkpoint
from agents.router.classifier import Classifier, scores_of
from agents.router.training.corpus import load_corpus
from agents.router.words import MAX_CHARS, PIECES, TOKEN, WordModel, fit_words
from schemas.errors import SetupError

TEXTS = [
    *(f"Comment choisir un condensateur {value} ?" for value in ("céramique", "chimique", "film")),
    *(f"Why does the borrow checker reject {value} ->" for value in ("closures", "slices", "this")),
    *(f"Who painted the {value}?" for value in ("ceiling", "sunflowers", "night watch")),
]
KINDS = np.repeat(np.eye(3, dtype=np.float32), 3, axis=0)
"""Electronics, Rust, and base as the last column."""


def learn_words(distributions: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]" = KINDS) -> WordModel:
    return fit_words(TEXTS, distributions, np.ones(len(TEXTS), np.float32), least=2, inverse_penalty=10.0)


def test_words_and_pieces_of_words_say_the_domain_and_what_is_unknown_says_little() -> None:
    words = learn_words()
    electronics, rust, base, misspelt, unknown = words.logits(
        ["quel condensateur", "the borrow checker", "who painted it", "des condensatuers", "zzz"]
    )
    assert electronics[0] > 1.0 > electronics[1]
    assert rust[1] > 1.0 > rust[0]
    assert max(base) < 0.0
    assert misspelt[0] > max(misspelt[1], 0.5)
    assert unknown == pytest.approx(words.bias)
    assert np.array_equal(words.logits(["zzz", "quel condensateur"]), np.stack([unknown, electronics]))
    assert words.logits(["CONDENSATEUR CÉRAMIQUE"]) == pytest.approx(words.logits(["condensateur ceramique"]))
    assert "->" in words.words


def test_words_are_counted_as_scikit_learn_does() -> None:
    words = load_shipped().words
    assert words is not None
    options = {"strip_accents": "unicode", "sublinear_tf": True}
    counters = (
        TfidfVectorizer(vocabulary=words.words, token_pattern=TOKEN, **options),
        TfidfVectorizer(vocabulary=words.pieces, analyzer="char_wb", ngram_range=PIECES, **options),
    )
    counters[0].idf_, counters[1].idf_ = np.split(words.idf, [len(words.words)])
    texts = [example.prompt for example in load_corpus().examples[::97]] + ["", "Ünïcödé -> ::", "a a a b"]
    counts = sparse.hstack([counter.transform(texts) for counter in counters])
    assert words.logits(texts) == pytest.approx(counts @ words.weight + words.bias, abs=1e-4)


def test_a_text_of_two_domains_teaches_both_and_one_that_nothing_teaches_stays_low() -> None:
    both = np.insert(KINDS, 1, 0.0, axis=1)
    both[0] = [0.5, 0.0, 0.5, 0.0]
    words = learn_words(both)
    first, second = words.logits([TEXTS[0], TEXTS[1]])
    assert first[2] - first[0] > second[2] - second[0]
    assert first.argmin() == 1
    assert np.isfinite(words.weight).all()


def test_a_huge_text_is_read_up_to_its_limit() -> None:
    words, filler = learn_words(), "and " * MAX_CHARS
    beginning, whole = words.logits([filler[:MAX_CHARS], filler + "borrow checker"])
    assert np.array_equal(beginning, whole)


def test_too_little_to_learn_from_is_refused() -> None:
    with pytest.raises(SetupError, match="no word occurs in 50 prompts"):
        fit_words(TEXTS, KINDS, np.ones(9, np.float32), least=50, inverse_penalty=1.0)
    with pytest.raises(SetupError, match="fewer than three outputs"):
        fit_words(TEXTS[3:], KINDS[3:, 1:], np.ones(6, np.float32), least=1, inverse_penalty=1.0)


def make_checkpoint(words: WordModel | None) -> Checkpoint:
    """Two outputs that look at the first two entries of the embedding."""
    tensors = {
        "0.weight": torch.eye(2),
        "0.bias": torch.zeros(2),
        "3.weight": torch.eye(2),
        "3.bias": torch.zeros(2),
    }
    labels = ("electronics-hw", "rust")
    return Checkpoint(
        classifier=Classifier(tensors=tensors, labels=labels),
        meta=CheckpointMeta(labels=labels, threshold=0.5),
        words=words,
    )


def halve_precision(words: WordModel) -> WordModel:
    """The words as a checkpoint keeps them."""
    return replace(words, weight=words.weight.astype(np.float16).astype(np.float32), scale=0.5)


def test_words_and_classifier_are_added_in_log_odds(tmp_path: Path) -> None:
    before = make_checkpoint(halve_precision(learn_words()))
    save_checkpoint(before, tmp_path / "one")
    after = load_checkpoint(tmp_path / "one")
    save_checkpoint(after, tmp_path / "two")
    assert (tmp_path / "one" / WEIGHTS).read_bytes() == (tmp_path / "two" / WEIGHTS).read_bytes()
    assert after.words is not None
    vectors, texts = np.eye(2, dtype=np.float32), ["le condensateur", "borrow"]
    word_logits = after.words.logits(texts)
    assert np.array_equal(word_logits, halve_precision(learn_words()).logits(texts))
    classifier_logits = after.classifier.logits(vectors)
    assert after.scores(texts, vectors) == pytest.approx(
        1 / (1 + np.exp(-(0.5 * classifier_logits + word_logits))), abs=1e-5
    )
    bare = make_checkpoint(None)
    assert np.array_equal(bare.scores(texts, vectors), scores_of(bare.classifier.logits(vectors)))


def test_broken_words_are_refused_by_name(tmp_path: Path) -> None:
    save_checkpoint(make_checkpoint(halve_precision(learn_words())), tmp_path)
    good = load_file(tmp_path / WEIGHTS)
    for change, why in (
        ({"words.idf": None}, "lack 'words.idf'"),
        ({"words.idf": good["words.idf"][1:]}, "do not fit"),
        ({"words.bias": good["words.bias"][:1].clone()}, "1 outputs and 2 labels"),
        ({"words.weight": good["words.weight"] * float("nan")}, "not finite"),
        ({"words.words": torch.full((3,), 255, dtype=torch.uint8)}, "cannot be read"),
        ({"words.scale": torch.ones(2)}, "cannot be read"),
    ):
        tensors = {name: tensor.contiguous() for name, tensor in {**good, **change}.items() if tensor is not None}
        save_file(tensors, tmp_path / WEIGHTS)
        with pytest.raises(SetupError, match=why):
            load_checkpoint(tmp_path)
