"""The multilingual set and its figures, in real stores; the embedder is a hash, so words alone can find."""

import hashlib
from collections import Counter

import pytest

from agents.memory.text.words import LATIN, OTHER
from runtime.bench.harness import read_data
from runtime.bench.memory.multilingual import (
    ALL,
    CUTOFFS,
    ORIGINAL,
    TRANSLATED,
    DialogueScript,
    EnglishWords,
    figures,
    measure,
    measure_shown,
    texts_of,
)
from tests.agents.memory.scenes import unit

SCRIPTS = read_data("multilingual", DialogueScript)


def test_the_set_is_as_large_as_it_has_to_be() -> None:
    questions = Counter[str]()
    for script in SCRIPTS:
        questions[script.language] += len(script.questions)
    assert questions.keys() == {"fr", "de", "es", "zh", "ja", "ru", "ar", "en"}
    assert questions.total() - questions[TRANSLATED] >= 150
    assert questions["fr"] >= 60
    assert min(count for language, count in questions.items() if language != TRANSLATED) >= 20
    assert all(len(script.lines) >= 14 for script in SCRIPTS)


def test_every_question_has_evidence_in_its_own_dialogue() -> None:
    for script in SCRIPTS:
        ids = [line.id for line in script.lines]
        assert len(set(ids)) == len(ids)
        assert all(question.evidence and set(question.evidence) <= set(ids) for question in script.questions)
        assert len({question.text for question in script.questions}) == len(script.questions)


def test_the_english_dialogue_has_the_questions_of_its_original() -> None:
    english = next(script for script in SCRIPTS if script.language == TRANSLATED)
    (original,) = (script for script in SCRIPTS if script.translated)
    assert len(english.lines) == len(original.lines)
    numbers = [
        [[name.split(":")[1] for name in question.evidence] for question in script.questions]
        for script in (english, original)
    ]
    assert numbers[0] == numbers[1]


@pytest.mark.anyio
async def test_words_by_language_find_more_than_english_words() -> None:
    scripts = [script for script in SCRIPTS if script.translated or script.language in ("zh", TRANSLATED)]
    vectors = {text: unit(int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])) for text in texts_of(scripts)}
    now = await measure(scripts, vectors)
    before = await measure(scripts, vectors, words=EnglishWords())
    for together in (False, True):
        new, old = figures(now, together=together), figures(before, together=together)
        assert new["zh"].recalls[0] > 2 * old["zh"].recalls[0]
        assert new[ALL].recalls[0] > old[ALL].recalls[0]
        assert all(list(figure.recalls) == sorted(figure.recalls) for figure in new.values())
        assert all(len(figure.recalls) == len(CUTOFFS) for figure in new.values())
        assert new[ORIGINAL].questions == new["fr"].questions
        assert (TRANSLATED in new) != together
    no_floor = {"relevance_floor": -1.0, "impersonal_floor": -1.0, "impersonal_coverage": 0.0}
    rates = await measure_shown(scripts, vectors, **no_floor)
    alone = await measure_shown(scripts, vectors, **no_floor, floor_languages=(*LATIN, OTHER))
    assert {figure.strangers for figure in alone.values()} == {1.0}
    assert rates["zh"].strangers < 0.5 < rates["zh"].evidence
    assert rates[TRANSLATED] == alone[TRANSLATED]
