import math

from hypothesis import given
from hypothesis import strategies as st

from agents.negotiator.consensus import (
    ATTENDING,
    LABELS,
    choice,
    complete_ballots,
    is_split,
    likeliest,
    tally,
    verdict,
    vote_summary,
)
from schemas.findings import Candidate, Vote, VoteChoice

MEMBERS = (ATTENDING, "python", "shell")
LOGPROBS: dict[VoteChoice, dict[str, float]] = {
    label: {other: math.log(0.8 if other == label else 0.1) for other in LABELS} for label in LABELS
}
choices = st.sampled_from(LABELS)
scores = st.fixed_dictionaries({label: st.floats(-20, 0) for label in LABELS})


def vote(member: str, candidate: int, label: VoteChoice) -> Vote:
    return Vote(member=member, candidate=candidate, choice=label, logprobs=LOGPROBS[label])


def ballots(*rows: tuple[VoteChoice, ...]) -> tuple[Vote, ...]:
    """One row a candidate, one column a member."""
    return tuple(
        vote(member, index, label)
        for index, row in enumerate(rows)
        for member, label in zip(MEMBERS, row, strict=False)
    )


panels = st.lists(st.tuples(choices, choices, choices), min_size=1, max_size=4).map(lambda rows: ballots(*rows))


@given(panels, st.randoms())
def test_the_order_of_the_votes_does_not_matter(votes: tuple[Vote, ...], random: object) -> None:
    candidates = sorted({each.candidate for each in votes})
    shuffled = list(votes)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert verdict(votes, candidates) == verdict(shuffled, candidates)


@given(panels)
def test_the_verdict_is_one_of_the_candidates_and_keeps_its_word(votes: tuple[Vote, ...]) -> None:
    candidates = sorted({each.candidate for each in votes})
    result = verdict(votes, candidates)
    chosen_tally = tally(votes, result.chosen)
    assert result.chosen in candidates
    assert (result.rival is not None) == (result.outcome == "contested")
    assert result.rival != result.chosen
    if result.outcome == "consensus":
        assert chosen_tally.keeps > 0
        assert chosen_tally.refuses == 0
    else:
        assert all(tally(votes, candidate).ruling != "accepted" for candidate in candidates)


@given(panels, st.integers(0, 3))
def test_a_candidate_that_all_keep_is_never_beaten_by_one_that_somebody_refuses(
    votes: tuple[Vote, ...], index: int
) -> None:
    candidates = sorted({each.candidate for each in votes})
    favourite = candidates[index % len(candidates)]
    changed_votes = [vote(each.member, favourite, "KEEP") if each.candidate == favourite else each for each in votes]
    result = verdict(changed_votes, candidates)
    assert result.outcome == "consensus"
    assert tally(changed_votes, result.chosen).refuses == 0


def test_consensus_takes_the_candidate_with_more_keeps() -> None:
    result = verdict(ballots(("KEEP", "NEUTRAL", "NEUTRAL"), ("KEEP", "KEEP", "NEUTRAL")), (0, 1))
    assert (result.outcome, result.chosen) == ("consensus", 1)


def test_silence_defers_to_the_attending() -> None:
    votes = [
        Vote(member=ATTENDING, candidate=0, choice="NEUTRAL", logprobs={"KEEP": -2, "REFUSE": -1.9, "NEUTRAL": -1}),
        Vote(member=ATTENDING, candidate=1, choice="NEUTRAL", logprobs={"KEEP": -1.9, "REFUSE": -2, "NEUTRAL": -1}),
        Vote(member="python", candidate=0, choice="NEUTRAL", logprobs={"KEEP": -1, "REFUSE": -9, "NEUTRAL": -0.9}),
        Vote(member="python", candidate=1, choice="NEUTRAL", logprobs={"KEEP": -9, "REFUSE": -1, "NEUTRAL": -0.9}),
    ]
    result = verdict(votes, (0, 1))
    assert (result.outcome, result.chosen) == ("deferred", 1)


def test_both_sides_go_to_arbitration_between_the_two_best() -> None:
    rows: tuple[tuple[VoteChoice, ...], ...] = (
        ("REFUSE", "REFUSE", "REFUSE"),
        ("KEEP", "REFUSE", "REFUSE"),
        ("KEEP", "KEEP", "REFUSE"),
    )
    result = verdict(ballots(*rows), (0, 1, 2))
    assert (result.outcome, result.chosen, result.rival) == ("contested", 2, 1)


def test_one_candidate_that_is_contested_or_refused_stays_undecided() -> None:
    assert verdict(ballots(("KEEP", "REFUSE")), (0,)).outcome == "undecided"
    assert verdict(ballots(("REFUSE", "REFUSE")), (0,)).outcome == "undecided"
    assert verdict(ballots(("NEUTRAL", "NEUTRAL")), (0,)).outcome == "deferred"


def test_candidates_that_all_are_refused_are_left_to_the_attending() -> None:
    result = verdict(ballots(("REFUSE", "REFUSE"), ("REFUSE", "REFUSE")), (0, 1))
    assert result.outcome == "deferred"
    assert "refuses every candidate" in result.reason


@given(scores, st.floats(0, 5))
def test_a_label_needs_the_lead(logprobs: dict[str, float], margin: float) -> None:
    label = choice(logprobs, neutral_margin=margin)
    rivals = [value for option, value in logprobs.items() if option != label]
    if label != "NEUTRAL":
        assert logprobs[label] - max(rivals) >= margin
    else:
        descending = sorted(logprobs.values(), reverse=True)
        assert logprobs["NEUTRAL"] == descending[0] or descending[0] - descending[1] < margin


def test_a_ballot_with_a_hole_does_not_count() -> None:
    votes = [*ballots(("KEEP", "KEEP"), ("KEEP", "REFUSE")), vote("shell", 0, "REFUSE")]
    assert {each.member for each in complete_ballots(votes, (0, 1))} == {ATTENDING, "python"}


def test_the_likeliest_is_the_earlier_of_equals() -> None:
    candidates = [Candidate(text=str(score), logprob=score) for score in (-2.0, -1.0, -1.0)]
    assert likeliest(candidates) == 1


def test_candidates_are_split_when_no_answer_leads() -> None:
    assert is_split(((0,), (1,)))
    assert is_split(((0, 2), (1, 3)))
    assert not is_split(((0, 2), (1,)))
    assert not is_split(((0, 1),))


def test_a_vote_summary_counts_keeps_and_refusals() -> None:
    votes = ballots(("KEEP", "KEEP", "REFUSE"), ("REFUSE", "NEUTRAL", "KEEP"))
    assert vote_summary(votes, 0) == "2 of the panel keep it, 1 refuse it"
    assert vote_summary(votes, 1) == "1 of the panel keep it, 1 refuse it"
