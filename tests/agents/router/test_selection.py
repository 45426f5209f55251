"""The pure part: gate, niches, adapters, levels and plans."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.router.aliases import Alias, alias_of
from agents.router.selection import adapters_of, level_of, niche_of, plan_of, select_outputs
from schemas.chat import Message
from schemas.findings import Level, Query

names = st.sampled_from([f"domain-{index}" for index in range(31)])
probability = st.floats(0.0, 1.0)
score_maps = st.dictionaries(names, probability, max_size=31)


def make_query(*, level: Level | None = None, candidates: int | None = None) -> Query:
    return Query(model="micro-kiki", messages=(Message(role="user", content="x"),), level=level, candidates=candidates)


@given(score_maps, probability, st.integers(1, 31), st.sets(names))
def test_the_gate_keeps_what_passes_best_first(
    scores: dict[str, float], threshold: float, top_k: int, allowed: set[str]
) -> None:
    outputs = select_outputs(scores, threshold=threshold, top_k=top_k, allowed=allowed)
    assert len(outputs) <= top_k
    assert [output.score for output in outputs] == sorted((output.score for output in outputs), reverse=True)
    passing = {name for name, score in scores.items() if score >= threshold and (not allowed or name in allowed)}
    assert {output.name for output in outputs} <= passing
    assert len(outputs) == min(top_k, len(passing))


@given(
    st.lists(st.tuples(names, st.floats(0.001, 1.0)), unique_by=lambda entry: entry[0], max_size=8),
    st.sets(names),
    probability,
    st.integers(1, 4),
)
def test_adapter_weights_are_shares_of_one(
    niches: list[tuple[str, float]], base: set[str], min_share: float, limit: int
) -> None:
    niches.sort(key=lambda entry: -entry[1])
    adapters = adapters_of(niches, base_domains=base, min_share=min_share, limit=limit)
    assert len(adapters) <= limit
    assert sum(entry.weight for entry in adapters) <= 1.001
    assert not {entry.name for entry in adapters} & base
    if niches and not base:
        assert adapters[0].name == niches[0][0]
        assert sum(entry.weight for entry in adapters) == pytest.approx(1.0, abs=1e-3)
        assert [entry.weight for entry in adapters] == sorted((entry.weight for entry in adapters), reverse=True)


def test_a_weak_second_gives_no_adapter() -> None:
    adapters = adapters_of([("rust", 0.9), ("cpp", 0.2)], base_domains=(), min_share=0.3)
    assert [(adapter.name, adapter.weight) for adapter in adapters] == [("rust", 1.0)]


def test_base_keeps_the_weight_of_a_domain_that_runs_without_adapter() -> None:
    adapters = adapters_of([("python", 0.6), ("docker", 0.4)], base_domains=("python",), min_share=0.3)
    assert [(adapter.name, adapter.weight) for adapter in adapters] == [("docker", 0.4)]


def test_base_answers_when_no_domain_passes() -> None:
    assert select_outputs({"rust": 0.2}, threshold=0.5, top_k=4) == ()
    assert adapters_of([], base_domains=(), min_share=0.3) == ()


def test_the_scale_is_that_of_all_adapters_and_without_one_the_base_answers() -> None:
    niches = [("rust", 0.5), ("cpp", 0.5)]
    adapters = adapters_of(niches, base_domains=(), min_share=0.3, scale=0.5)
    assert [(use.weight, use.scale, use.factor) for use in adapters] == [(0.5, 0.5, 0.25)] * 2
    assert adapters_of(niches, base_domains=(), min_share=0.3, scale=0.0) == ()


def test_the_niche_is_the_likeliest_that_is_allowed() -> None:
    shares = {"components": 0.2, "electronics": 0.5, "power": 0.3}
    assert niche_of(shares) == "electronics"
    assert niche_of(shares, allowed=("power", "rust")) == "power"
    assert niche_of(shares, allowed=("rust",)) == "electronics"


@pytest.mark.parametrize(
    ("request_level", "first", "level"),
    [
        (None, "math", "full"),
        (None, "rust", "fast"),
        (None, None, "fast"),
        ("raw", "math", "raw"),
        ("full", None, "full"),
    ],
)
def test_a_fast_turn_deepens_where_cognition_pays(request_level: Level | None, first: str | None, level: Level) -> None:
    alias = Alias(intent="i", description="d", level="fast", deepen=True)
    assert level_of(alias, request_level, first=first, cognition_domains=("math",)) == level


def test_plans_of_the_three_levels() -> None:
    alias = alias_of("micro-kiki")
    raw, fast, full = (plan_of(alias, make_query(), level=level) for level in ("raw", "fast", "full"))
    assert (raw.candidates, raw.recall, raw.record, raw.live_tokens) == (1, False, False, True)
    assert (fast.candidates, fast.recall, fast.record, fast.live_tokens) == (1, True, True, True)
    assert (full.candidates, full.recall, full.record, full.live_tokens) == (3, True, True, False)
    assert not any((raw.dissent, fast.negotiate, fast.antibias))
    assert all((full.dissent, full.negotiate, full.antibias))


def test_the_request_names_its_candidates() -> None:
    assert plan_of(alias_of("micro-kiki"), make_query(candidates=8), level="full").candidates == 8
    assert plan_of(alias_of("micro-kiki-base"), make_query(candidates=2), level="raw").candidates == 2


def test_an_alias_may_leave_recall_out() -> None:
    assert not plan_of(alias_of("kiki-meta-agentic"), make_query(), level="fast").recall
