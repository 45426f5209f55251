"""How a conversation's running domains weigh in, and fade."""

import numpy as np
import pytest

from agents.router.dialogue import (
    FADE,
    KINDS,
    NUMBERS,
    Conversation,
    DialogueHead,
    Shares,
    advance,
    average,
    features,
    load_head,
    mix,
    niche_scores,
)
from agents.router.scoring import OutputScores
from agents.shared.domains import load_taxonomy
from agents.shared.encoder import Floats

TAXONOMY = load_taxonomy()
BY_ITSELF, LEANING, SMALL_TALK = Shares(1.0, 0.0, 0.0), Shares(0.0, 1.0, 0.0), Shares(0.0, 0.0, 1.0)
VECTOR: Floats = np.eye(1, 8, dtype=np.float32)[0]


def scores_of(**outputs: float) -> OutputScores:
    """Scores of all outputs, 0 where nothing is said; ``spice`` is netlists, not simulation, for nine parts of ten."""
    named = {name.replace("_", "-"): score for name, score in outputs.items()}
    inside = {output: dict.fromkeys(names, 1.0) for output, names in TAXONOMY.members.items()}
    inside["spice"] = {"spice": 0.9, "spice-sim": 0.1}
    return OutputScores({output: named.get(output, 0.0) for output in TAXONOMY.outputs}, inside)


def step(conversation: Conversation, scores: OutputScores, shares: Shares) -> Conversation:
    mixed = mix(scores, conversation.running, shares, TAXONOMY)
    return advance(conversation, mixed, VECTOR, shares, threshold=0.4, taxonomy=TAXONOMY)


def test_a_leaning_message_gets_the_running_domain_and_its_niche() -> None:
    conversation = step(Conversation(), scores_of(spice=0.8), BY_ITSELF)
    mixed = mix(scores_of(math=0.5), conversation.running, LEANING, TAXONOMY)
    assert max(mixed.outputs, key=lambda name: mixed.outputs[name]) == "spice"
    assert mixed.niche("spice") == "spice"
    assert mixed.outputs["math"] == 0.0


def test_a_message_by_itself_keeps_its_own_scores() -> None:
    conversation = step(Conversation(), scores_of(spice=0.8), BY_ITSELF)
    mixed = mix(own := scores_of(sql=0.7, rust=0.2), conversation.running, BY_ITSELF, TAXONOMY)
    assert mixed.outputs == pytest.approx(own.outputs)


def test_running_domains_fade_and_small_talk_leaves_them_as_they_are() -> None:
    first = step(Conversation(), scores_of(rust=0.8), BY_ITSELF)
    assert first.running == {"rust": pytest.approx(1.0)}  # it passed the gate: it is decided
    assert step(first, scores_of(), SMALL_TALK).running == pytest.approx(dict(first.running))
    second = step(first, scores_of(sql=0.9), BY_ITSELF)
    assert second.running == pytest.approx({"sql": 1.0, "rust": FADE})
    third = step(second, scores_of(), LEANING)
    assert third.running["sql"] == pytest.approx(1.0)
    for _ in range(12):
        second = step(second, scores_of(sql=0.9), BY_ITSELF)
    assert set(second.running) == {"sql"}


def test_a_message_that_no_domain_fits_leaves_nothing_decided() -> None:
    conversation = step(Conversation(), scores_of(rust=0.3), BY_ITSELF)
    assert conversation.running == pytest.approx({"rust": 0.3})


def test_the_features_name_what_the_conversation_is_about() -> None:
    conversation = Conversation({"rust": 1.0}, VECTOR)
    row = features("and the second one?", VECTOR, scores_of(rust=0.5), conversation, TAXONOMY)
    numbers = dict(zip(NUMBERS, row[len(VECTOR) :].tolist(), strict=True))
    assert numbers["running"] == pytest.approx(0.0)
    assert numbers["cosine"] == pytest.approx(2.0)
    assert numbers["weight"] == 1.0
    assert numbers["cues"] > 0.0
    assert numbers["marks"] == 0.0
    switch = features("Different topic: a question", VECTOR, scores_of(), conversation, TAXONOMY)
    assert switch[-1] == 1.0


def test_a_mean_of_scores_keeps_the_shares_of_the_niche_domains() -> None:
    mean = average([scores_of(spice=0.8), scores_of(spice=0.4)], TAXONOMY)
    assert mean.outputs["spice"] == pytest.approx(0.6)
    assert niche_scores(mean, TAXONOMY)["spice"] == pytest.approx(0.54)


def test_the_heads_shares_sum_to_one() -> None:
    width = len(VECTOR) + len(NUMBERS)
    head = DialogueHead(weight=np.eye(len(KINDS), width, dtype=np.float32), bias=np.zeros(len(KINDS), np.float32))
    shares = head.shares(np.zeros(width, np.float32))
    assert sum(shares) == pytest.approx(1.0)
    assert head.width == len(VECTOR)
    assert load_head().width == 768
