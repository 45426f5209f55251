"""An answer becomes an episode."""

from hypothesis import given
from hypothesis import strategies as st

from agents.memory.episodes import episode, episode_id, key, recorded
from tests.agents.memory.scenes import answered, turn, unit

names = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=12)


def test_an_episode_holds_what_every_stage_found() -> None:
    event = answered(turn(tenant="ann", session="s9"), unit(1), text="Why?", answer="Because.")
    made = episode(event)
    assert (made.tenant, made.session_id, made.turn_id) == ("ann", "s9", event.envelope.turn_id)
    assert (made.question, made.answer, made.embedding) == ("Why?", "Because.", unit(1))
    assert made.recalled_ids == ("e0",)
    assert made.votes == event.negotiation.votes
    assert made.dissent == event.negotiation.dissent
    assert made.arbitration == event.negotiation.arbitration is not None
    assert (made.outcome, made.bias, made.usage) == ("consensus", event.bias, event.usage)
    assert (made.adapters, made.domains, made.timings) == (event.route.adapters, event.route.domains, event.timings)
    assert (made.sampling.seed, made.model_digest) == (7, "d1")


def test_a_redelivered_answer_gives_the_same_episode() -> None:
    event = answered(turn(), unit(1))
    assert episode(event) == episode(event)
    assert recorded(event).envelope.event_id == recorded(event).envelope.event_id
    assert recorded(event).envelope.causation_id == event.envelope.event_id


@given(names, names, names, names)
def test_ids_differ_where_tenant_or_turn_differs(tenant: str, turn_id: str, other_tenant: str, other_turn: str) -> None:
    same = (tenant, turn_id) == (other_tenant, other_turn)
    one = episode_id(tenant=tenant, turn_id=turn_id)
    assert (one == episode_id(tenant=other_tenant, turn_id=other_turn)) is same
    assert (key(tenant, "episode", turn_id) == key(other_tenant, "episode", other_turn)) is same
    assert key(tenant, "episode", turn_id) != key(tenant, "session", turn_id)
