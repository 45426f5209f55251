"""Who answers a turn that a panel will judge: each routed adapter by itself, and the base model. Pure.

Candidates of different members differ for a reason; three draws of one member differ by chance.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from schemas.chat import MAX_CANDIDATES
from schemas.findings import AdapterUse, Candidate

SEEDS = 2**63


@dataclass(frozen=True, kw_only=True)
class Member:
    """One voice with its number of candidates."""

    number: int
    adapters: tuple[AdapterUse, ...]
    candidates: int

    def seed(self, turn: int) -> int:
        """The seed of its first candidate in a turn of seed ``turn``; no two members share one."""
        return (turn + self.number * MAX_CANDIDATES) % SEEDS


def seated(adapters: Sequence[AdapterUse], candidates: int) -> tuple[Member, ...]:
    """The panel for so many candidates: the best adapters alone at full weight, and always the base, last.

    Members are asked in turn, so that a second candidate of one comes only after the first of all.
    """
    alone = [(AdapterUse(name=use.name, sha256=use.sha256),) for use in adapters[: candidates - 1]]
    voices: list[tuple[AdapterUse, ...]] = [*alone, ()]
    shares = [len(range(number, candidates, len(voices))) for number in range(len(voices))]
    return tuple(
        Member(number=number, adapters=voice, candidates=share)
        for number, (voice, share) in enumerate(zip(voices, shares, strict=True))
    )


def in_turn(drawn: Sequence[Sequence[Candidate]]) -> tuple[Candidate, ...]:
    """The members' candidates in one order: the first of each, then the second of each."""
    rounds = max(map(len, drawn))
    return tuple(own[number] for number in range(rounds) for own in drawn if number < len(own))
