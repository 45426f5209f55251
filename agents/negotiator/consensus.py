"""Counting votes (CAMP, arXiv 2604.00085). Pure.

Each member of the panel votes KEEP, REFUSE or NEUTRAL on each candidate. A candidate that somebody keeps and
nobody refuses is accepted; when nobody takes a side, the attending decides alone; when members take both sides,
the attending arbitrates. CAMP rules on each diagnosis by itself; a turn has one answer, so that among several
accepted candidates the one with the most support is taken (this project's rule).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from schemas.findings import Candidate, Vote, VoteChoice

LABELS: tuple[VoteChoice, ...] = ("KEEP", "REFUSE", "NEUTRAL")
ATTENDING = "base"
"""Name of the panel member that is the base model; the paper calls it the attending."""

Ruling = Literal["accepted", "refused", "silent", "contested"]


@dataclass(frozen=True, kw_only=True)
class VoteTally:
    """The votes on one candidate. ``support`` is the sum of log P(KEEP) - log P(REFUSE) in nats."""

    candidate: int
    keeps: int
    refuses: int
    support: float

    @property
    def ruling(self) -> Ruling:
        """How the panel rules on the candidate."""
        if self.keeps and self.refuses:
            return "contested"
        if self.keeps:
            return "accepted"
        return "refused" if self.refuses else "silent"

    @property
    def rank(self) -> tuple[int, float, int]:
        """Orders candidates: net votes, then support, then the earlier one."""
        return (self.keeps - self.refuses, self.support, -self.candidate)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The result of the count. ``rival`` is set when the attending must compare it with ``chosen``."""

    outcome: Literal["consensus", "deferred", "contested", "undecided"]
    chosen: int
    rival: int | None = None
    reason: str


def likeliest(candidates: Sequence[Candidate]) -> int:
    """The index of the highest mean log-probability; the earlier one when equal."""
    return max(range(len(candidates)), key=lambda index: (candidates[index].logprob, -index))


def choice(logprobs: Mapping[str, float], *, neutral_margin: float) -> VoteChoice:
    """The label of the highest calibrated log-probability; NEUTRAL when the lead is below ``neutral_margin`` nats."""
    labels = sorted(LABELS, key=lambda label: -logprobs[label])
    lead = logprobs[labels[0]] - logprobs[labels[1]]
    return labels[0] if lead >= neutral_margin else "NEUTRAL"


def support(vote: Vote) -> float:
    """How far a vote leans to KEEP, in nats."""
    return vote.logprobs["KEEP"] - vote.logprobs["REFUSE"]


def complete_ballots(votes: Sequence[Vote], candidates: Sequence[int]) -> tuple[Vote, ...]:
    """The votes of members who voted on every candidate: an incomplete ballot would favour the candidates in it."""
    candidate_set = set(candidates)
    members = dict.fromkeys(vote.member for vote in votes)
    full = {
        member for member in members if {vote.candidate for vote in votes if vote.member == member} == candidate_set
    }
    return tuple(sorted((vote for vote in votes if vote.member in full), key=lambda v: (v.candidate, v.member)))


def tally(votes: Sequence[Vote], candidate: int) -> VoteTally:
    """Counts the votes on one candidate; their order does not matter."""
    candidate_votes = sorted((vote for vote in votes if vote.candidate == candidate), key=lambda vote: vote.member)
    return VoteTally(
        candidate=candidate,
        keeps=sum(vote.choice == "KEEP" for vote in candidate_votes),
        refuses=sum(vote.choice == "REFUSE" for vote in candidate_votes),
        support=sum(support(vote) for vote in candidate_votes),
    )


def verdict(votes: Sequence[Vote], candidates: Sequence[int]) -> Verdict:
    """Rules on one round of complete ballots, the attending's among them."""
    tallies = sorted((tally(votes, candidate) for candidate in candidates), key=lambda t: t.rank, reverse=True)
    by_ruling: dict[Ruling, list[VoteTally]] = {}
    for candidate_tally in tallies:
        by_ruling.setdefault(candidate_tally.ruling, []).append(candidate_tally)
    if accepted := by_ruling.get("accepted"):
        best = accepted[0]
        return Verdict(outcome="consensus", chosen=best.candidate, reason=f"{best.keeps} keep it and nobody refuses it")
    if by_ruling.get("contested"):
        if len(tallies) == 1:
            return Verdict(
                outcome="undecided",
                chosen=tallies[0].candidate,
                reason="the panel is divided and there is no other candidate",
            )
        first, second = tallies[:2]
        return Verdict(
            outcome="contested", chosen=first.candidate, rival=second.candidate, reason="the panel is divided"
        )
    if silent := by_ruling.get("silent"):
        return _defer(votes, silent, reason="nobody takes a side")
    if len(tallies) == 1:
        return Verdict(outcome="undecided", chosen=tallies[0].candidate, reason="the panel refuses the only candidate")
    return _defer(votes, tallies, reason="the panel refuses every candidate")


def _defer(votes: Sequence[Vote], among: Sequence[VoteTally], *, reason: str) -> Verdict:
    attending_support = {vote.candidate: support(vote) for vote in votes if vote.member == ATTENDING}
    preference = max(
        (candidate_tally.candidate for candidate_tally in among),
        key=lambda candidate: (attending_support[candidate], -candidate),
    )
    return Verdict(outcome="deferred", chosen=preference, reason=f"{reason}; the attending prefers it")


def is_split(groups: Sequence[Sequence[int]]) -> bool:
    """Whether no answer is given by more candidates than any other; ``groups`` with the largest first."""
    return len(groups) > 1 and len(groups[0]) == len(groups[1])


def vote_summary(votes: Sequence[Vote], candidate: int) -> str:
    """The votes on a candidate in words, for the judge."""
    count = tally(votes, candidate)
    arguments = [
        f"{vote.member} argues: {vote.argument}" for vote in votes if vote.candidate == candidate and vote.argument
    ]
    return "; ".join([f"{count.keeps} of the panel keep it, {count.refuses} refuse it", *arguments])


def firmest_vote(votes: Sequence[Vote], candidate: int) -> Vote | None:
    """The vote on a candidate that leans furthest to one side; None when all are NEUTRAL."""
    decided_votes = [vote for vote in votes if vote.candidate == candidate and vote.choice != "NEUTRAL"]
    return max(decided_votes, key=lambda vote: (abs(support(vote)), vote.member), default=None)
