"""The small fleet's data: every answer is right by its domain's judge, and no question of a split is in another."""

import re
from itertools import product

import pytest

from runtime.bench.experts.examples import (
    SPLITS,
    ExpertExample,
    Split,
    examples_folder,
    judge_reply,
    list_domains,
    read_examples,
)

DOMAINS = ("chat-fr", "kicad-dsl", "shell", "spice", "sql")


def test_five_domains_have_examples() -> None:
    assert list_domains() == DOMAINS


@pytest.mark.parametrize("domain", DOMAINS)
def test_there_are_enough_examples_and_each_is_asked_once(domain: str) -> None:
    counts = {split: len(read_examples(domain, split)) for split in SPLITS}
    assert counts["train"] >= 200
    assert counts["valid"] >= 8
    assert counts["test"] >= 40
    questions = [example.question for split in SPLITS for example in read_examples(domain, split)]
    assert len(questions) == len(set(questions))


@pytest.mark.parametrize("domain", DOMAINS)
def test_an_example_is_one_question_and_one_answer(domain: str) -> None:
    for split in SPLITS:
        for example in read_examples(domain, split):
            assert [message.role for message in example.messages] == ["user", "assistant"]
            assert example.answer == example.answer.strip()


@pytest.mark.parametrize(("domain", "split"), [*product(DOMAINS, SPLITS)])
def test_every_answer_passes_its_own_judge_in_the_house_form(domain: str, split: Split) -> None:
    wrong = [
        example.question
        for example in read_examples(domain, split)
        if not judge_reply(domain, split, example, example.answer).alone
    ]
    assert not wrong


@pytest.mark.parametrize("domain", DOMAINS)
def test_held_out_answers_are_not_learnt(domain: str) -> None:
    learnt = {code_of(domain, example) for split in ("train", "valid") for example in read_examples(domain, split)}
    assert not [example.question for example in read_examples(domain, "test") if code_of(domain, example) in learnt]


def test_held_out_queries_run_on_databases_that_no_other_example_has() -> None:
    databases = {split: {example.database for example in read_examples("sql", split)} for split in SPLITS}
    assert not databases["test"] & (databases["train"] | databases["valid"])
    scripts = {path.stem for path in (examples_folder() / "sql" / "databases").glob("*.sql")}
    assert scripts == databases["test"] | databases["train"]


def test_held_out_commands_run_in_a_folder_without_a_file_of_the_other_one() -> None:
    paths = [
        set(re.findall(r"> '?\"?([\w./ -]+\.\w+)", (examples_folder() / "shell" / name).read_text(encoding="utf-8")))
        for name in ("folder.sh", "test-folder.sh")
    ]
    assert all(len(names) > 10 for names in paths)
    assert not paths[0] & paths[1]


def test_held_out_french_sentences_share_no_sentence_with_the_others() -> None:
    sentences = {
        split: {example.question.split(" : ")[-1] for example in read_examples("chat-fr", split)} for split in SPLITS
    }
    assert not sentences["test"] & (sentences["train"] | sentences["valid"])


@pytest.mark.parametrize("domain", ["kicad-dsl", "spice"])
def test_held_out_questions_use_other_words_for_their_numbers(domain: str) -> None:
    """A question whose numbers are blotted out is none of the others with theirs blotted out."""
    learnt = {blot(example) for split in ("train", "valid") for example in read_examples(domain, split)}
    held_out = {blot(example) for example in read_examples(domain, "test")}
    assert len(held_out & learnt) == 0


def code_of(domain: str, example: ExpertExample) -> str:
    """What is learnt of an answer; of a command without its comment."""
    return example.answer.split("\n# ")[0] if domain == "shell" else example.answer


def blot(example: ExpertExample) -> str:
    """A question in small letters, without its numbers and the names before them."""
    text = re.sub(r"^(spice netlist|spice|kicad)\s*: *", "", example.question.lower())
    return re.sub(r"-?\d[\w.]*", "#", text)
