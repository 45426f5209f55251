"""``kiki bench everyday``: forty questions that a person may ask, put to a facade as a stock client puts them.

Each question is a conversation of its own, one after the other, with no option but the model id, so the answers are
those of the defaults. They are judged when all are there (:mod:`runtime.bench.judge`).
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from runtime.bench.harness import (
    BenchReport,
    JsonOption,
    PictureOption,
    fresh_facade,
    machine,
    progress_bar,
    publish_report,
)
from runtime.bench.judge import EverydayQuestion, read_everyday_questions
from runtime.bench.plots import bar_chart
from runtime.cli import command, run_async, settings_of

MODEL_ID = "micro-kiki"
"""The model id that is asked."""

FIRST_LINE = 60
"""Characters of an answer in the table."""


@dataclass(frozen=True, kw_only=True)
class EverydayReply:
    """What came back; seconds from the request to the first visible text (None without any) and to the end.

    ``error`` says why there is no answer, or not all of it.
    """

    text: str
    seconds: float
    first_text: float | None
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class JudgedReply:
    """A question, the reply and the verdict."""

    kind: str
    question: str
    reply: EverydayReply
    right: bool


@command
def everyday(
    model: Annotated[str | None, typer.Option(help="Ask this chat model; the settings' own without.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only the first so many questions.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Write questions, whole answers and verdicts here.")] = None,
    picture: PictureOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ask forty everyday questions over HTTP, as a stock client does, and judge the answers."""
    selection = read_everyday_questions()[:limit]
    name = model or settings_of().model
    judged_replies = run_async(_ask_all, selection, name)
    if markdown is not None:
        markdown.parent.mkdir(parents=True, exist_ok=True)
        markdown.write_text(draw_markdown(judged_replies, model=name), encoding="utf-8")
    publish_report(_report(judged_replies, name), as_json=as_json, picture=picture)


def count_right(judged_replies: Sequence[JudgedReply]) -> dict[str, tuple[int, int]]:
    """By kind, how many answers are right and how many questions there are."""
    kinds = dict.fromkeys(entry.kind for entry in judged_replies)
    return {
        kind: (
            sum(entry.right for entry in judged_replies if entry.kind == kind),
            sum(entry.kind == kind for entry in judged_replies),
        )
        for kind in kinds
    }


def draw_markdown(judged_replies: Sequence[JudgedReply], *, model: str) -> str:
    """The counts and every answer word for word, as Markdown."""
    counts = count_right(judged_replies)
    host = machine()
    lines = [
        f"`kiki bench everyday --model {model}`, {time.strftime('%Y-%m-%d')}, {host['system']}, {host['cores']} cores: "
        f"**{sum(entry.right for entry in judged_replies)} of {len(judged_replies)}** right.",
        "",
        "| kind | right |",
        "|---|---|",
        *(f"| {kind} | {right} of {total} |" for kind, (right, total) in counts.items()),
    ]
    for number, entry in enumerate(judged_replies, 1):
        verdict = "right" if entry.right else "wrong"
        lines += ["", f"**{number}. {entry.question}** ({entry.kind}, {verdict}, {entry.reply.seconds:.1f} s)", ""]
        answer = entry.reply.text if entry.reply.error is None else f"{entry.reply.text}\n[{entry.reply.error}]"
        lines += [f"> {line}".rstrip() for line in answer.strip().splitlines()]
    return "\n".join(lines) + "\n"


async def _ask_all(selection: Sequence[EverydayQuestion], model: str) -> list[JudgedReply]:
    from openai import AsyncOpenAI

    replies = []
    async with fresh_facade(model=model) as (url, key), AsyncOpenAI(base_url=url, api_key=key, max_retries=0) as client:
        with progress_bar("questions", total=len(selection)) as tick:
            for question in selection:
                replies.append(await _ask(client, question.question))
                tick()
    return [
        JudgedReply(kind=question.kind, question=question.question, reply=reply, right=question.is_right(reply.text))
        for question, reply in zip(selection, replies, strict=True)
    ]


async def _ask(client: Any, question: str) -> EverydayReply:
    """Ask over HTTP, streamed, so that the first visible text has a time. A refused turn has an error, and no text."""
    from openai import OpenAIError

    started = time.perf_counter()
    pieces: list[str] = []
    first_text, error = None, None
    try:
        chunks = await client.chat.completions.create(
            model=MODEL_ID, messages=[{"role": "user", "content": question}], stream=True
        )
        async for chunk in chunks:
            text = "".join(choice.delta.content or "" for choice in chunk.choices)
            if text and first_text is None:
                first_text = time.perf_counter() - started
            pieces.append(text)
    except OpenAIError as failure:
        error = str(failure)
    seconds = time.perf_counter() - started
    return EverydayReply(text="".join(pieces), seconds=seconds, first_text=first_text, error=error)


def _report(judged_replies: Sequence[JudgedReply], model: str) -> BenchReport:
    counts = count_right(judged_replies)
    right = sum(entry.right for entry in judged_replies)
    summary = ", ".join(f"{kind} {kind_right} of {total}" for kind, (kind_right, total) in counts.items())
    kinds = list(counts)
    return BenchReport(
        bench="everyday",
        fields={
            "model": model,
            "right": right,
            "count": len(judged_replies),
            "by_kind": {kind: {"right": counts[kind][0], "count": counts[kind][1]} for kind in kinds},
            "answers": [
                {"kind": entry.kind, "question": entry.question, "right": entry.right, **asdict(entry.reply)}
                for entry in judged_replies
            ],
        },
        tables=[_table(judged_replies, model)],
        chart=bar_chart(kinds, {"right": [float(counts[kind][0]) for kind in kinds]}, unit="right answers"),
        notes=[f"{right} of {len(judged_replies)} right: {summary}"],
    )


def _table(judged_replies: Sequence[JudgedReply], model: str) -> Table:
    columns = ("kind", "question", "answer", "", "s", "first text s")
    table = Table(*columns, title=f"kiki bench everyday: {model} as {MODEL_ID}", box=None)
    for entry in judged_replies:
        first_text = entry.reply.first_text
        table.add_row(
            entry.kind,
            _first_line(entry.question),
            _first_line(entry.reply.text) if entry.reply.error is None else f"[{entry.reply.error}]",
            "right" if entry.right else "wrong",
            f"{entry.reply.seconds:.1f}",
            f"{first_text:.1f}" if first_text is not None else "",
        )
    return table


def _first_line(text: str) -> str:
    """The first lines of a text in one, cut at :data:`FIRST_LINE`."""
    line = " ".join(text.split())
    return line if len(line) <= FIRST_LINE else f"{line[: FIRST_LINE - 1]}…"
