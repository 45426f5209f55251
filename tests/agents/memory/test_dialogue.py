"""Fourteen turns whose later ones depend on earlier ones, with the real embedder; and many tenants at once."""

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from agents.inference.prompt import with_recall
from agents.memory.settings import MemorySettings
from agents.router.agent import RouterAgent
from agents.router.settings import RouterSettings
from bus.connection import Bus
from bus.topology import EPISODES
from schemas.chat import Message
from schemas.embedder import EmbedRequest
from schemas.events import EpisodeRecorded, RecallDone
from tests.agents.memory.memories import eventually, projected, serving
from tests.agents.memory.scenes import SIZE, answered, routed, turn, unit

pytestmark = pytest.mark.anyio

TOLD = (
    ("My daughter is called Ilse and she is nine.", "What a lovely age."),
    ("We are planning a trip to Porto in October.", "Porto is mild then."),
    ("Which voltage does the STM32F4 run at?", "It runs at 3.3 V."),
    ("I am allergic to hazelnuts.", "I will keep that in mind."),
    ("Can you explain what a mutex is?", "A lock that one thread holds at a time."),
    ("My budget for the trip is 1200 euros.", "That is enough for a week."),
    ("Thanks!", "You are welcome."),
    ("The project's repository is called heron.", "Noted."),
)
DEPENDS = (
    ("How old is my daughter?", "nine"),
    ("Where are we travelling in October?", "Porto"),
    ("Which nuts must I not eat because of my allergy?", "hazelnuts"),
    ("How much money may the trip cost?", "1200"),
    ("What is the repository of my project called?", "heron"),
    ("At which voltage does the STM32F4 run, again?", "3.3"),
)


@pytest.fixture(scope="module")
async def router(embedder_path: Path) -> AsyncIterator[RouterAgent]:
    agent = RouterAgent(RouterSettings(embedder=embedder_path))
    async with agent.loaded():
        yield agent


async def vector(router: RouterAgent, text: str) -> tuple[float, ...]:
    return (await router.embed(EmbedRequest(texts=(text,)))).vectors[0]


async def recalled(bus: Bus, tenant: str, session: str, text: str, embedding: tuple[float, ...]) -> RecallDone:
    envelope = turn(tenant=tenant, session=session)
    await bus.publish(routed(envelope, embedding, text=text))
    found = await eventually(lambda: bus.last(RecallDone, envelope.turn_id))
    assert isinstance(found, RecallDone)
    return found


async def test_later_turns_have_the_right_episode_in_their_prompt(
    bus: Bus, tmp_path: Path, router: RouterAgent, small_model: Path
) -> None:
    assert len(TOLD) + len(DEPENDS) == 14
    settings = MemorySettings(
        data_dir=tmp_path / "memory", status_interval=0.05, tokenizer=small_model / "tokenizer.json"
    )
    async with serving(bus, settings):
        for question, answer in TOLD:
            event = answered(turn(session="talk"), await vector(router, question), text=question, answer=answer)
            await bus.publish(event)
            await eventually(lambda event=event: bus.last(EpisodeRecorded, event.envelope.turn_id, stream=EPISODES))  # type: ignore[misc]
        await projected(bus, len(TOLD), len(TOLD))
        for question, needed in DEPENDS:
            found = await recalled(bus, "ann", "talk", question, await vector(router, question))
            prompt = with_recall((Message(role="user", content=question),), found.recall.hits)
            assert needed in prompt[0].content, f"{question}: {[hit.question for hit in found.recall.hits]}"
            assert 1 <= len(found.recall.hits) <= settings.max_hits
        for small in ("Hello!", "Thanks a lot!", "Good morning, how are you?"):
            assert (await recalled(bus, "ann", "talk", small, await vector(router, small))).recall.hits == ()
        for question, _ in DEPENDS:
            assert (await recalled(bus, "bob", "talk", question, await vector(router, question))).recall.hits == ()


async def test_no_tenant_is_shown_the_text_of_another_however_many_write_at_once(bus: Bus, tmp_path: Path) -> None:
    settings = MemorySettings(data_dir=tmp_path / "memory", vector_size=SIZE, status_interval=0.05)
    tenants = [f"tenant{n}" for n in range(8)]
    shown: dict[str, list[str]] = {tenant: [] for tenant in tenants}

    async def live(tenant: str) -> None:
        for step in range(6):
            await bus.publish(
                answered(
                    turn(tenant=tenant, session="same"),
                    unit(step),
                    text=f"What is secret {step}?",
                    answer=f"It belongs to {tenant}.",
                )
            )
            found = await recalled(bus, tenant, "same", f"What is secret {step}?", unit(step))
            shown[tenant] += [hit.answer for hit in found.recall.hits]

    async with serving(bus, settings):
        async with anyio.create_task_group() as tasks:
            for tenant in tenants:
                tasks.start_soon(live, tenant)
        await projected(bus, 48, 48)
        for tenant in tenants:
            for step in range(6):
                found = await recalled(bus, tenant, "same", f"What is secret {step}?", unit(step))
                shown[tenant] += [hit.answer for hit in found.recall.hits]
    for tenant, answers in shown.items():
        assert answers
        assert set(answers) == {f"It belongs to {tenant}."}
