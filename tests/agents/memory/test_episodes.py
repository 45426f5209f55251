"""An answer becomes an episode."""

from hypothesis import given
from hypothesis import strategies as st

from agents.memory.episodes import build_episode, build_record, episode_id, store_key
from tests.agents.memory.scenes import answer_ready, turn, unit

names = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=12)


def test_an_episode_holds_what_every_stage_found() -> None:
    event = answer_ready(turn(tenant="ann", session="s9"), unit(1), text="Why?", answer="Because.")
    result = build_episode(event)
    assert (result.tenant, result.session_id, result.turn_id) == ("ann", "s9", event.envelope.turn_id)
    assert (result.question, result.answer, result.embedding) == ("Why?", "Because.", unit(1))
    assert result.recalled_ids == ("e0",)
    assert result.votes == event.negotiation.votes
    assert result.dissent == event.negotiation.dissent
    assert result.arbitration == event.negotiation.arbitration is not None
    assert (result.outcome, result.bias, result.usage) == ("consensus", event.bias, event.usage)
    assert (result.adapters, result.domains, result.timings) == (
        event.route.adapters,
        event.route.domains,
        event.timings,
    )
    assert (result.sampling.seed, result.model_digest) == (7, "d1")


def test_a_redelivered_answer_gives_the_same_episode() -> None:
    event = answer_ready(turn(), unit(1))
    assert build_episode(event) == build_episode(event)
    assert build_record(event).envelope.event_id == build_record(event).envelope.event_id
    assert build_record(event).envelope.causation_id == event.envelope.event_id


@given(names, names, names, names)
def test_ids_differ_where_tenant_or_turn_differs(tenant: str, turn_id: str, other_tenant: str, other_turn: str) -> None:
    same = (tenant, turn_id) == (other_tenant, other_turn)
    first_id = episode_id(tenant=tenant, turn_id=turn_id)
    assert (first_id == episode_id(tenant=other_tenant, turn_id=other_turn)) is same
    assert (store_key(tenant, "episode", turn_id) == store_key(other_tenant, "episode", other_turn)) is same
    assert store_key(tenant, "episode", turn_id) != store_key(tenant, "session", turn_id)
