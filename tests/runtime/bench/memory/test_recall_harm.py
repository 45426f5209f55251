"""The bench of recall's harm: its questions, what it counts, and what a question is shown."""

from pathlib import Path

import pytest

from agents.memory.imports import HistoryLine, date_lines
from agents.memory.projection import project_episodes
from runtime.bench.harness import fresh_stores, read_data
from runtime.bench.judge import EverydayQuestion
from runtime.bench.memory import recall_harm
from runtime.bench.memory.recall_harm import MEMORIES, HarmReading
from runtime.cli import settings_of
from runtime.local_embedder import open_embedder

pytestmark = pytest.mark.anyio


def reading(memory: str, question: str, *, right: bool, shown: int = 0) -> HarmReading:
    return HarmReading(
        memory=memory, kind="fact", question=question, shown=shown, prompt_tokens=10, answer="Rome.", right=right
    )


def test_sixty_questions_of_which_none_holds_its_own_answer() -> None:
    questions = read_data("general", EverydayQuestion)
    assert len({question.question for question in questions}) == 60
    assert [question.question for question in questions if question.is_right(question.question)] == []


def test_the_life_can_be_imported() -> None:
    entries = date_lines(read_data("life", HistoryLine))
    assert len({(entry.line.session_id, entry.line.name) for entry in entries}) == 60


def test_the_report_counts_what_became_wrong_and_what_became_right() -> None:
    readings = [
        reading(memory, question, right=right, shown=memory != "none")
        for memory, verdicts in zip(
            MEMORIES, ((True, True, False), (True, False, True), (True, True, True)), strict=True
        )
        for question, right in zip(("a", "b", "c"), verdicts, strict=True)
    ]
    report = recall_harm._report(readings, "tiny")
    rows = list(zip(*(list(column.cells) for column in report.tables[0].columns), strict=True))
    assert rows == [
        ("none", "0", "2", "2", "0", "0", "30"),
        ("life", "3", "2", "2", "1", "1", "30"),
        ("life and questions", "3", "3", "3", "0", "1", "30"),
    ]
    assert [note.split(":")[1].strip() for note in report.notes] == ["b wrong", "c right", "c right"]


async def test_a_question_of_the_life_is_shown_it_and_a_question_asked_again_no_answer(
    embedder_path: Path, tmp_path: Path
) -> None:
    settings_of(data_dir=tmp_path, log_level="warning")
    async with open_embedder(settings_of()) as embed, fresh_stores(vector_size=768) as stores:
        await recall_harm._remember_life(stores, embed)
        texts = ("Who comes on Thursday at 9 for the leaks?", "What is the plural of the word child?")
        plumber, plural = await embed(texts)
        hits = await recall_harm._recall(stores, texts[0], plumber)
        assert "The plumber comes on Thursday at 9, it costs 180 euros." in [hit.question for hit in hits]
        before = await recall_harm._recall(stores, texts[1], plural)
        past = recall_harm._past_episodes([reading("none", texts[1], right=False)], [plural])
        assert [(episode.question, episode.answer) for episode in past] == [(texts[1], "Rome.")]
        await project_episodes(stores, past)
        assert await recall_harm._recall(stores, texts[1], plural) == before
