"""A turn's deliberation and bias check, as tables and as JSON."""

import json

from rich.console import Console

from runtime.turns.deliberation import summarise_bias_check, summarise_deliberation
from runtime.turns.deliberation_tables import draw_bias_check, draw_deliberation
from schemas.chat import Usage
from schemas.findings import (
    AdapterUse,
    Arbitration,
    BiasFinding,
    BiasReport,
    Candidate,
    Cost,
    Dissent,
    Inference,
    Negotiation,
    Vote,
    VoteChoice,
)

POWER = (AdapterUse(name="power"),)
INFERENCE = Inference(
    candidates=(
        Candidate(text="100", adapters=POWER, logprob=-0.2, usage=Usage(completion_tokens=3)),
        Candidate(text="90", logprob=-0.9, usage=Usage(completion_tokens=2)),
        Candidate(text="It is 100.", adapters=POWER, logprob=-0.4, usage=Usage(completion_tokens=5)),
    ),
    usage=Usage(prompt_tokens=7, completion_tokens=10),
    model="test",
)


def vote(member: str, candidate: int, label: VoteChoice, number: int) -> Vote:
    logprobs = {"KEEP": -1.0, "REFUSE": -2.0, "NEUTRAL": -3.0}
    return Vote(member=member, candidate=candidate, choice=label, round=number, logprobs=logprobs)


ARGUED = Negotiation(
    chosen=1,
    text="90",
    outcome="arbitrated",
    panel=("base", "power"),
    groups=((0, 2), (1,)),
    votes=(vote("base", 0, "REFUSE", 1), vote("base", 1, "KEEP", 1), vote("base", 0, "KEEP", 2)),
    rounds=2,
    dissent=Dissent(engaged=True, reason="hard", text="At sea level?", tone="strong", usage=Usage(prompt_tokens=9)),
    arbitration=Arbitration(
        first=0,
        second=1,
        lean=0.5,
        swapped=-0.25,
        findings=(BiasFinding(bias="position", evidence="the orders differ"),),
        again=(-0.5, -0.75),
        changed=True,
    ),
    costs=(Cost(step="votes, round 1", compute=0.25, tokens=40),),
    notes=("the panel is divided",),
)


def render(negotiation: Negotiation) -> str:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(draw_deliberation(INFERENCE, negotiation))
    return capture.get()


def test_panel_votes_dissent_biases_and_cost_are_shown() -> None:
    text = render(ARGUED)
    for phrase in (
        "power",
        "1 ←",
        "KEEP +1.00",
        "REFUSE +1.00",
        "dissent (strong, 9 tokens): At sea level?",
        "+0.50 nats for 0, -0.25 in swapped order",
        "position bias: the orders differ",
        "another verdict",
        "- the panel is divided",
        "votes, round 1",
        "250.0",
    ):
        assert phrase in text, phrase


def test_a_turn_without_a_decision_shows_nothing() -> None:
    assert draw_deliberation(INFERENCE, Negotiation(chosen=0, text="100", outcome="passed")) is None
    negotiation = Negotiation(chosen=0, text="100", outcome="single", dissent=Dissent(engaged=False, reason="simple"))
    assert "dissent waived: simple" in render(negotiation)


def test_a_summary_says_the_same_in_json() -> None:
    fields = json.loads(json.dumps(summarise_deliberation(INFERENCE, ARGUED)))
    assert [candidate["member"] for candidate in fields["candidates"]] == ["power", "base", "power"]
    assert fields["groups"] == [[0, 2], [1]]
    assert fields["votes"][0] == {"round": 1, "member": "base", "candidate": 0, "vote": "REFUSE", "support": 1.0}
    assert fields["arbitration"]["biases"] == [{"bias": "position", "evidence": "the orders differ"}]
    assert (fields["arbitration"]["changed"], fields["arbitration"]["again"]) == (True, [-0.5, -0.75])
    assert fields["costs"] == [{"step": "votes, round 1", "compute_ms": 250.0, "tokens": 40}]
    assert fields["dissent"]["tone"] == "strong"
    nothing = summarise_deliberation(INFERENCE, Negotiation(chosen=0, text="100", outcome="agreed"))
    assert (nothing["dissent"], nothing["arbitration"], nothing["votes"]) == (None, None, [])


def test_a_bias_check_is_shown_with_what_the_revision_was_given_and_its_cost() -> None:
    report = BiasReport(
        checked=True,
        biased=True,
        revised=True,
        unfair=0.9,
        unfair_revised=0.2,
        framing="Who drives worse?",
        guideline="Look at the driver.",
        reason="touches people (men)",
        costs=(Cost(step="check", compute=0.25, tokens=40),),
    )
    check_view = draw_bias_check(report)
    assert check_view is not None
    console = Console(width=120)
    with console.capture() as capture:
        console.print(check_view)
    for phrase in (
        "touches people (men)",
        "another framing: Who drives worse?",
        "Look at the driver.",
        "check",
        "250.0",
    ):
        assert phrase in capture.get()
    fields = json.loads(json.dumps(summarise_bias_check(report)))
    assert (fields["unfair"], fields["unfair_revised"], fields["undecided"]) == (0.9, 0.2, False)
    assert fields["costs"] == [{"step": "check", "compute_ms": 250.0, "tokens": 40}]
    assert draw_bias_check(BiasReport(checked=True, reason="touches nobody")) is None
