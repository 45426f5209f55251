from hypothesis import given
from hypothesis import strategies as st

from agents.inference.panel import choose_voices, interleave
from schemas.chat import MAX_CANDIDATES
from schemas.findings import MAX_ADAPTERS, AdapterUse, Candidate

uses = st.lists(st.sampled_from("abcdefgh"), max_size=MAX_ADAPTERS, unique=True).map(
    lambda names: tuple(AdapterUse(name=name, weight=0.25, scale=1.5) for name in names)
)


@given(uses, st.integers(1, MAX_CANDIDATES))
def test_experts_sit_before_the_base_and_every_voice_speaks_before_one_speaks_twice(
    adapters: tuple[AdapterUse, ...], candidates: int
) -> None:
    voices = choose_voices(adapters, candidates)
    names = [use.name for use in adapters]
    assert [use.name for voice in voices for use in voice.adapters] == names[:candidates]
    assert [voice.adapters for voice in voices[len(names) :]] == [()] * (candidates > len(names))
    assert all((use.weight, use.scale) == (1.0, 1.5) for voice in voices for use in voice.adapters)
    shares = [voice.candidates for voice in voices]
    assert sum(shares) == candidates
    assert max(shares) - min(shares) <= 1
    assert shares == sorted(shares, reverse=True)


@given(uses, st.integers(1, MAX_CANDIDATES), st.integers(0, 2**63 - 1))
def test_candidates_have_different_seeds(adapters: tuple[AdapterUse, ...], candidates: int, turn: int) -> None:
    seeds = [
        (voice.seed(turn) + number) % 2**63
        for voice in choose_voices(adapters, candidates)
        for number in range(voice.candidates)
    ]
    assert len(set(seeds)) == candidates


def test_candidates_come_in_turn() -> None:
    answers = [[Candidate(text="a1"), Candidate(text="a2")], [Candidate(text="b1")], [Candidate(text="c1")]]
    assert [candidate.text for candidate in interleave(answers)] == ["a1", "b1", "c1", "a2"]
