"""Splits a turn's candidates between voices: each routed adapter by itself, and the base model. Pure.

Candidates of different voices differ in what the voices know; several draws of one voice differ by chance only.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from msgspec import structs

from agents.inference.candidates import SEEDS
from schemas.chat import MAX_CANDIDATES
from schemas.findings import AdapterUse, Candidate


@dataclass(frozen=True, kw_only=True)
class Voice:
    """One voice: its ``number`` among the voices, its adapters (none: the base model), and how many candidates it
    gives."""

    number: int
    adapters: tuple[AdapterUse, ...]
    candidates: int

    def seed(self, turn_seed: int) -> int:
        """The seed of its first candidate in a turn of seed ``turn_seed``; no two voices share one."""
        return (turn_seed + self.number * MAX_CANDIDATES) % SEEDS


def choose_voices(adapters: Sequence[AdapterUse], candidates: int) -> tuple[Voice, ...]:
    """The voices for so many candidates: the best adapters, each alone at full weight, then the base if there is room.

    Every voice gives one candidate before any gives a second.
    """
    alone = [(structs.replace(use, weight=1.0),) for use in adapters[:candidates]]
    adapter_sets: list[tuple[AdapterUse, ...]] = [*alone, ()][:candidates]
    shares = [len(range(number, candidates, len(adapter_sets))) for number in range(len(adapter_sets))]
    return tuple(
        Voice(number=number, adapters=adapter_set, candidates=share)
        for number, (adapter_set, share) in enumerate(zip(adapter_sets, shares, strict=True))
    )


def interleave(candidates_by_voice: Sequence[Sequence[Candidate]]) -> tuple[Candidate, ...]:
    """The voices' candidates in one order: the first of each, then the second of each."""
    rounds = max(map(len, candidates_by_voice))
    return tuple(
        candidates[number] for number in range(rounds) for candidates in candidates_by_voice if number < len(candidates)
    )
