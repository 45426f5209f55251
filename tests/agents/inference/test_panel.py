from hypothesis import given
from hypothesis import strategies as st

from agents.inference.panel import in_turn, seated
from schemas.chat import MAX_CANDIDATES
from schemas.findings import MAX_ADAPTERS, AdapterUse, Candidate

uses = st.lists(st.sampled_from("abcdefgh"), max_size=MAX_ADAPTERS, unique=True).map(
    lambda names: tuple(AdapterUse(name=name, weight=0.25) for name in names)
)


@given(uses, st.integers(1, MAX_CANDIDATES))
def test_the_base_sits_last_and_nobody_speaks_twice_before_all_have_spoken(
    adapters: tuple[AdapterUse, ...], candidates: int
) -> None:
    members = seated(adapters, candidates)
    assert members[-1].adapters == ()
    assert [member.adapters[0].name for member in members[:-1]] == [use.name for use in adapters[: candidates - 1]]
    assert all(use.weight == 1.0 for member in members for use in member.adapters)
    shares = [member.candidates for member in members]
    assert sum(shares) == candidates
    assert max(shares) - min(shares) <= 1
    assert shares == sorted(shares, reverse=True)


@given(uses, st.integers(1, MAX_CANDIDATES), st.integers(0, 2**63 - 1))
def test_no_two_candidates_share_a_seed(adapters: tuple[AdapterUse, ...], candidates: int, turn: int) -> None:
    seeds = [
        (member.seed(turn) + number) % 2**63
        for member in seated(adapters, candidates)
        for number in range(member.candidates)
    ]
    assert len(set(seeds)) == candidates


def test_candidates_come_in_turn() -> None:
    drawn = [[Candidate(text="a1"), Candidate(text="a2")], [Candidate(text="b1")], [Candidate(text="c1")]]
    assert [one.text for one in in_turn(drawn)] == ["a1", "b1", "c1", "a2"]
