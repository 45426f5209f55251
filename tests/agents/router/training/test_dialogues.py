"""The shipped dialogues, and the head that is trained from them."""

from collections import Counter
from importlib.resources import as_file, files

import pytest
from safetensors import safe_open

from agents.router.dialogue import FILE
from agents.router.training import dialogues as module
from agents.router.training.corpus import duplicates, load_corpus
from agents.router.training.dialogues import (
    BASE,
    TurnFigures,
    digest,
    load_asides,
    load_dialogues,
    report,
    texts_of,
)
from agents.shared.domains import load_taxonomy
from schemas.errors import SetupError

DIALOGUES, ASIDES = load_dialogues(), load_asides()


def test_the_dialogues_cover_every_domain_both_languages_and_every_kind() -> None:
    assert len(DIALOGUES) >= 150
    assert all(2 <= len(entry.turns) <= 4 for entry in DIALOGUES)
    domains = Counter(turn.domain for entry in DIALOGUES for turn in entry.turns)
    assert set(domains) == {*load_taxonomy().domains, BASE}
    assert min(domains.values()) >= 10
    assert min(Counter(entry.lang for entry in DIALOGUES).values()) >= 50
    kinds = Counter(turn.kind for entry in DIALOGUES for turn in entry.turns)
    assert kinds["follow-up"] >= 300
    assert min(kinds.values()) >= 30
    assert {aside.domain for aside in ASIDES} <= {BASE, "chat-fr"}


def test_no_dialogue_repeats_another_or_the_corpus() -> None:
    texts = [entry.turns[0].user for entry in DIALOGUES] + [aside.text for aside in ASIDES]
    corpus = load_corpus().prompts
    assert [pair for pair in duplicates([*corpus, *texts]) if pair[1] >= len(corpus)] == []


def test_the_shipped_head_was_trained_from_the_shipped_dialogues() -> None:
    with as_file(files("configs").joinpath("router", FILE)) as path, safe_open(path, framework="np") as file:
        assert file.metadata()["dialogues_sha256"] == digest()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"lang": "en", "turns": []}', "length >= 2"),
        ("no json", "line 1"),
        (
            '{"lang": "en", "turns": [{"user": "a", "domain": "base", "kind": "switch", "assistant": "b"},'
            ' {"user": "c", "domain": "base", "kind": "switch"}]}',
            "opening",
        ),
        (
            '{"lang": "en", "turns": [{"user": "a", "domain": "base", "kind": "opening"},'
            ' {"user": "c", "domain": "base", "kind": "switch"}]}',
            "answer",
        ),
        (
            '{"lang": "en", "turns": [{"user": "a", "domain": "cobol", "kind": "opening", "assistant": "b"},'
            ' {"user": "c", "domain": "base", "kind": "switch"}]}',
            "cobol",
        ),
    ],
)
def test_a_wrong_line_is_named(monkeypatch: pytest.MonkeyPatch, line: str, message: str) -> None:
    monkeypatch.setattr(module, "_read_text", lambda name: line)
    with pytest.raises(SetupError, match=message):
        load_dialogues()


def test_texts_and_report_name_each_thing_once() -> None:
    texts = texts_of(DIALOGUES[:2], ASIDES[:1])
    assert len(texts) == len(set(texts)) == sum(len(entry.turns) for entry in DIALOGUES[:2]) + 1
    figures = {"switch": TurnFigures(turns=4, right=0.5, niche=0.25, alone=1.0)}
    assert "| switch | 4 | 50.0% | 25.0% | 100.0% |" in report(figures)
