"""The shipped corpus is what issue and training expect, and the checks on it can fail."""

from pathlib import Path

import pytest

from agents.router.training.corpus import Corpus, CorpusExample, duplicates, load_corpus
from agents.router.training.evaluation import read_labelled_prompts
from agents.shared.domains import load_taxonomy
from schemas.errors import SetupError

HELD_OUT = Path(__file__).parents[4] / "configs" / "router" / "held-out.jsonl"


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return load_corpus()


def test_every_domain_has_enough_prompts(corpus: Corpus) -> None:
    counts = corpus.counts()
    assert {name: counts[name] for name in load_taxonomy().niches if counts[name] < 80} == {}
    assert counts["base"] >= 200
    assert counts["multi"] >= 150


def test_every_technical_domain_is_asked_in_french_too(corpus: Corpus) -> None:
    french = {label for example in corpus.examples if example.lang == "fr" for label in example.labels}
    assert french == set(load_taxonomy().niches)


def test_the_corpus_has_no_near_duplicates(corpus: Corpus) -> None:
    assert duplicates(corpus.prompts) == []


def test_the_held_out_prompts_are_of_all_domains_and_not_in_the_corpus(corpus: Corpus) -> None:
    prompts, labels = read_labelled_prompts(HELD_OUT)
    assert set(load_taxonomy().niches) == {label for right in labels for label in right}
    assert labels.count(()) >= 90
    assert duplicates(prompts) == []
    assert [(a, b) for a, b, _ in duplicates(corpus.prompts + prompts) if b >= len(corpus.prompts)] == []


def test_duplicates_are_found_across_case_and_punctuation() -> None:
    prompts = ["How do I flash an STM32?", "Write a haiku about rain.", "how do i flash an stm32", "Another thing"]
    assert [(first, second) for first, second, _ in duplicates(prompts)] == [(0, 2)]


def test_near_duplicates_are_found_and_neighbours_are_not() -> None:
    prompts = [
        "Explain the difference between a list and a tuple in Python.",
        "Explain the difference between a list and a tuple in Python",
        "Explain the difference between a set and a dictionary in Python.",
    ]
    assert [(first, second) for first, second, _ in duplicates(prompts)] == [(0, 1)]


def test_digest_does_not_depend_on_order_but_on_content() -> None:
    first, second = CorpusExample(prompt="a", labels=("cpp",)), CorpusExample(prompt="b", labels=())
    assert Corpus((first, second)).digest() == Corpus((second, first)).digest()
    assert Corpus((first,)).digest() != Corpus((CorpusExample(prompt="a", labels=("rust",)),)).digest()


@pytest.mark.parametrize(
    ("line", "param"),
    [
        ('{"prompt": "x", "labels": ["nothing"]}', "labels"),
        ('{"prompt": " ", "labels": ["cpp"]}', "prompt"),
        ('{"prompt": "x", "labels": ["rust"]}', "labels"),
        ('{"prompt": "x"}', "corpus"),
        ('{"prompt": "x", "labels": ["cpp"], "more": 1}', "corpus"),
        ("not json", "corpus"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, param: str) -> None:
    (tmp_path / "cpp.jsonl").write_text(f'{{"prompt": "fine", "labels": ["cpp"]}}\n{line}\n')
    with pytest.raises(SetupError, match="line 2") as refusal:
        load_corpus(tmp_path)
    assert refusal.value.param == param


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match="nothing to learn"):
        load_corpus(tmp_path)
