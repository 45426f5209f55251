"""Fourteen turns whose later ones depend on earlier ones, with the real embedder; and many tenants at once."""

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from agents.embedder.agent import EmbedderAgent
from agents.embedder.settings import EmbedderSettings
from agents.inference.prompt import with_recall
from agents.memory.settings import MemorySettings
from bus.connection import Bus
from bus.topology import EPISODES
from schemas.chat import Message
from schemas.embedder import EmbedRequest
from schemas.events import EpisodeRecorded, RecallDone
from tests.agents.memory.memories import eventually, run_memory_agent, wait_for_projection
from tests.agents.memory.scenes import SIZE, answer_ready, query_routed, turn, unit

pytestmark = pytest.mark.anyio

EARLIER_TURNS = (
    ("My daughter is called Ilse and she is nine.", "What a lovely age."),
    ("We are planning a trip to Porto in October.", "Porto is mild then."),
    ("The STM32F4 on our board runs at 3.3 V.", "That is usual."),
    ("I am allergic to hazelnuts.", "I will keep that in mind."),
    ("Can you explain what a mutex is?", "A lock that one thread holds at a time."),
    ("My budget for the trip is 1200 euros.", "That is enough for a week."),
    ("Thanks!", "You are welcome."),
    ("The project's repository is called heron.", "Noted."),
)
DEPENDENT_QUESTIONS = (
    ("How old is my daughter?", "nine"),
    ("Where are we travelling in October?", "Porto"),
    ("Which nuts must I not eat because of my allergy?", "hazelnuts"),
    ("How much money may the trip cost?", "1200"),
    ("What is the repository of my project called?", "heron"),
    ("At which voltage does our STM32F4 run, again?", "3.3"),
)


@pytest.fixture(scope="module")
async def embedder(embedder_path: Path) -> AsyncIterator[EmbedderAgent]:
    agent = EmbedderAgent(EmbedderSettings(model=embedder_path))
    async with agent.load_model():
        yield agent


async def embed_text(embedder: EmbedderAgent, text: str) -> tuple[float, ...]:
    return (await embedder.embed(EmbedRequest(texts=(text,)))).vectors[0]


async def request_recall(bus: Bus, tenant: str, session: str, text: str, embedding: tuple[float, ...]) -> RecallDone:
    envelope = turn(tenant=tenant, session=session)
    await bus.publish(query_routed(envelope, embedding, text=text))
    event = await eventually(lambda: bus.last(RecallDone, envelope.turn_id))
    assert isinstance(event, RecallDone)
    return event


async def test_later_turns_have_the_right_episode_in_their_prompt(
    bus: Bus, tmp_path: Path, embedder: EmbedderAgent, small_model: Path
) -> None:
    assert len(EARLIER_TURNS) + len(DEPENDENT_QUESTIONS) == 14
    settings = MemorySettings(
        data_dir=tmp_path / "memory", status_interval=0.05, tokenizer=small_model / "tokenizer.json"
    )
    async with run_memory_agent(bus, settings):
        for question, answer in EARLIER_TURNS:
            event = answer_ready(
                turn(session="talk"), await embed_text(embedder, question), text=question, answer=answer
            )
            await bus.publish(event)
            await eventually(lambda event=event: bus.last(EpisodeRecorded, event.envelope.turn_id, stream=EPISODES))  # type: ignore[misc]
        await wait_for_projection(bus, len(EARLIER_TURNS), len(EARLIER_TURNS))
        for question, expected in DEPENDENT_QUESTIONS:
            reply = await request_recall(bus, "ann", "talk", question, await embed_text(embedder, question))
            prompt = with_recall((Message(role="user", content=question),), reply.recall.hits)
            assert expected in prompt[0].content, f"{question}: {[hit.question for hit in reply.recall.hits]}"
            assert 1 <= len(reply.recall.hits) <= settings.max_hits
        again = "Explain to me again what a mutex is."
        reply = await request_recall(bus, "ann", "talk", again, await embed_text(embedder, again))
        assert "A lock that one thread holds at a time." not in [hit.answer for hit in reply.recall.hits]
        for small in ("Hello!", "Thanks a lot!", "Good morning, how are you?"):
            assert (
                await request_recall(bus, "ann", "talk", small, await embed_text(embedder, small))
            ).recall.hits == ()
        for question, _ in DEPENDENT_QUESTIONS:
            assert (
                await request_recall(bus, "bob", "talk", question, await embed_text(embedder, question))
            ).recall.hits == ()


async def test_a_tenant_recalls_only_its_own_text_however_many_write_at_once(bus: Bus, tmp_path: Path) -> None:
    settings = MemorySettings(data_dir=tmp_path / "memory", vector_size=SIZE, status_interval=0.05)
    tenants = [f"tenant{n}" for n in range(8)]
    texts_by_tenant: dict[str, list[str]] = {tenant: [] for tenant in tenants}

    async def live(tenant: str) -> None:
        for step in range(6):
            await bus.publish(
                answer_ready(
                    turn(tenant=tenant, session="same"),
                    unit(step),
                    text=f"Secret {step} belongs to {tenant}.",
                    answer="Noted.",
                )
            )
            reply = await request_recall(bus, tenant, "same", f"What is secret {step}?", unit(step))
            texts_by_tenant[tenant] += [hit.question for hit in reply.recall.hits]

    async with run_memory_agent(bus, settings):
        async with anyio.create_task_group() as tasks:
            for tenant in tenants:
                tasks.start_soon(live, tenant)
        await wait_for_projection(bus, 48, 48)
        for tenant in tenants:
            for step in range(6):
                reply = await request_recall(bus, tenant, "same", f"What is secret {step}?", unit(step))
                texts_by_tenant[tenant] += [hit.question for hit in reply.recall.hits]
    for tenant, texts in texts_by_tenant.items():
        assert set(texts) == {f"Secret {step} belongs to {tenant}." for step in range(6)}
