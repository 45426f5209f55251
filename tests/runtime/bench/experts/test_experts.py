"""The bench of the small experts: whom it asks, what it makes of the replies, and which adapters it takes."""

from pathlib import Path
from typing import Any

import pytest

from bus.connection import Bus
from bus.testing import Scores
from runtime.bench.experts.examples import read_examples
from runtime.bench.experts.experts import (
    ExpertReply,
    ExpertRun,
    answer_questions,
    ask_routed,
    compare,
    draw_replies,
    select_domains,
)
from runtime.bench.experts.verdict import ExpertVerdict
from schemas.errors import SetupError, StageFailed
from schemas.findings import AdapterUse
from schemas.jobs import Job, JobResult
from tests.agents.scripted import scripted_worker

pytestmark = pytest.mark.anyio

RIGHT, WRONG = ExpertVerdict(True, alone=True), ExpertVerdict(False)


def reply(verdict: ExpertVerdict, loss: float) -> ExpertReply:
    return ExpertReply(question="Titles?", text="SELECT title\nFROM films;", verdict=verdict, loss=loss)


def run_of(base: list[ExpertReply], expert: list[ExpertReply]) -> ExpertRun:
    """A run whose router always chooses the base."""
    return ExpertRun(base=base, expert=expert, routed=base)


async def test_base_and_adapter_get_the_same_prompts_and_are_judged(bus: Bus) -> None:
    examples = read_examples("sql", "test")[:3]
    answers = {example.question: example.answer for example in examples}

    def script(job: Job) -> Scores | str:
        if job.choices:
            return dict.fromkeys(job.choices, -2.0 if job.adapters else -9.0)
        return answers[job.messages[-1].content] if job.adapters else "I do not know."

    async with scripted_worker(bus, script) as worker:
        base = await answer_questions(bus, "sql", examples, adapters=(), max_tokens=32)
        uses = (AdapterUse(name="sql"),)
        own = await answer_questions(bus, "sql", examples, adapters=uses, max_tokens=32)
    assert [entry.question for entry in base] == [example.question for example in examples]
    assert [entry.verdict for entry in base] == [WRONG] * 3
    assert [entry.verdict for entry in own] == [RIGHT] * 3
    assert ([entry.loss for entry in base], [entry.loss for entry in own]) == ([9.0] * 3, [2.0] * 3)
    base_prompts = {job.messages for job in worker.jobs if not job.adapters}
    assert base_prompts == {job.messages for job in worker.jobs if job.adapters}
    assert {job.sampling.temperature for job in worker.jobs} == {0.0}


async def test_an_adapter_that_the_worker_leaves_out_is_an_error(bus: Bus, monkeypatch: pytest.MonkeyPatch) -> None:
    ask = bus.ask

    async def ask_without_adapters(*places: Any, **asks: Any) -> JobResult:
        return await ask(*places, **{**asks, "adapters": ()})

    monkeypatch.setattr(bus, "ask", ask_without_adapters)
    examples = read_examples("sql", "test")[:1]
    async with scripted_worker(bus, lambda _: "x"):
        with pytest.raises(ExceptionGroup) as error:
            await answer_questions(bus, "sql", examples, adapters=(AdapterUse(name="sql"),), max_tokens=8)
    assert error.group_contains(StageFailed, match="left out")


async def test_only_replies_of_another_expert_are_asked_again(bus: Bus) -> None:
    examples = read_examples("sql", "test")[:4]
    base, own = [reply(WRONG, 6.0)] * 4, [reply(RIGHT, 2.0)] * 4

    def script(job: Job) -> Scores | str:
        return dict.fromkeys(job.choices, -4.0) if job.choices else "SELECT 1;"

    async with scripted_worker(bus, script) as worker:
        routed = await ask_routed(
            bus, "sql", examples, ["sql", None, "shell", "sql"], base=base, expert=own, max_tokens=8
        )
    assert [entry.loss for entry in routed] == [2.0, 6.0, 4.0, 2.0]
    assert {job.adapters for job in worker.jobs} == {(AdapterUse(name="shell"),)}
    assert {job.messages[-1].content for job in worker.jobs} == {examples[2].question}


def test_figures_compare_question_by_question() -> None:
    base = [reply(RIGHT, 6.0), reply(WRONG, 6.0), reply(WRONG, 6.0), reply(RIGHT, 6.0)]
    own = [reply(RIGHT, 2.0), reply(RIGHT, 2.0), reply(RIGHT, 2.0), reply(WRONG, 2.0)]
    figures = compare("sql", lambda _: 2, run_of(base, own))
    assert (figures.questions, figures.tokens, figures.wins, figures.losses) == (4, 8, 2, 1)
    assert (figures.base_loss, figures.loss) == (3.0, 1.0)
    assert (figures.base_score, figures.score, figures.win_rate) == (0.5, 0.75, 0.625)
    assert figures.low < figures.win_rate < figures.high
    assert (figures.routed_score, figures.oracle_ratio) == (0.5, 0.5 / 0.75)
    assert not figures.helps


def test_an_expert_helps_when_it_surely_wins_and_its_loss_is_lower() -> None:
    base, own = [reply(WRONG, 6.0)] * 12, [reply(RIGHT, 2.0)] * 9 + [reply(WRONG, 2.0)] * 3
    assert compare("sql", lambda _: 2, run_of(base, own)).helps
    assert not compare("sql", lambda _: 2, run_of(own, base)).helps
    assert not compare("sql", lambda _: 2, run_of(base, [reply(RIGHT, 7.0)] * 12)).helps


def test_replies_are_drawn_word_for_word() -> None:
    text = draw_replies("sql", run_of([reply(WRONG, 6.0)], [reply(RIGHT, 2.0)]))
    assert text.startswith("## sql\n\n**Titles?**\n\nbase: wrong\n\n> SELECT title\n> FROM films;")
    assert "adapter: right" in text


def test_only_adapters_that_are_there_are_measured(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"no adapter of sql, shell in .*'make adapters' trains them\."):
        select_domains(tmp_path, ("sql", "shell"))
    with pytest.raises(SetupError, match="no held-out questions of 'rust'"):
        select_domains(tmp_path, ("rust",))
    (tmp_path / "sql").mkdir()
    (tmp_path / "sql" / "adapters.safetensors").touch()
    assert select_domains(tmp_path, ("sql", "shell")) == ("sql",)
