"""``kiki bench experts``: what the small fleet's adapters change on held-out questions, against the base.

The base and each adapter get the same prompts from the same worker, without a temperature. A program judges every
reply (:mod:`runtime.bench.experts.examples`). The router then chooses an expert for each question, or the base.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import anyio
import typer
from rich.table import Table

from bus.connection import Bus
from runtime.bench.experts.examples import ExpertExample, judge_reply, list_domains, read_examples
from runtime.bench.experts.verdict import ExpertVerdict
from runtime.bench.harness import (
    BenchReport,
    JsonOption,
    PictureOption,
    fresh_runtime,
    progress_bar,
    publish_report,
)
from runtime.bench.intervals import bootstrap_interval
from runtime.bench.plots import bar_chart
from runtime.cli import command, run_async, settings_of
from runtime.local_router import load_router
from runtime.models import prepare
from runtime.settings import Settings
from schemas.chat import Message, Sampling
from schemas.envelope import new_turn
from schemas.errors import SetupError, StageFailed
from schemas.findings import AdapterUse
from schemas.jobs import JobResult
from schemas.router import RoutedPrompt, RouteRequest

ANSWER_SECONDS = 600.0
"""Seconds that one answer of the worker may take: its content is measured, not its time."""

AT_ONCE = 24
"""Questions that the worker has at the same time: fewer than the rows from which int8 products are widened."""


@dataclass(frozen=True, kw_only=True)
class ExpertReply:
    """One held-out question, answered with or without the adapter. ``loss``: natural-log loss of the reference answer,
    summed over its tokens."""

    question: str
    text: str
    verdict: ExpertVerdict
    loss: float


@dataclass(frozen=True, kw_only=True)
class ExpertRun:
    """The replies to a domain's questions, in their order: the base's, the expert's, and those of whom the router
    chose."""

    base: Sequence[ExpertReply]
    expert: Sequence[ExpertReply]
    routed: Sequence[ExpertReply]


@dataclass(frozen=True, kw_only=True)
class ExpertFigures:
    """One adapter against the base on the same questions.

    Attributes:
        base_loss, loss: natural-log loss for each token of the reference answers, without and with the adapter.
        base_score, score: share of right replies.
        routed_score: share of right replies when the router chooses among the measured experts and the base.
        base_alone, alone: share of replies that are right and hold nothing but what was asked for.
        wins, losses: questions that only the adapter, or only the base, answered rightly.
        win_rate: share of questions that the adapter wins, with a half for equal verdicts, and its 95 % interval.
    """

    domain: str
    questions: int
    tokens: int
    base_loss: float
    loss: float
    base_score: float
    score: float
    routed_score: float
    base_alone: float
    alone: float
    wins: int
    losses: int
    win_rate: float
    low: float
    high: float

    @property
    def oracle_ratio(self) -> float | None:
        """The routed score over that of the best single choice, the expert or the base; None when that is zero."""
        best = max(self.score, self.base_score)
        return self.routed_score / best if best else None

    @property
    def helps(self) -> bool:
        """Whether the adapter is shipped: the interval of its win rate is above one half, and the loss is lower."""
        return self.low > 0.5 and self.loss < self.base_loss


@command
def experts(
    adapters: Annotated[
        Path | None, typer.Option(help="Folder of the adapters; the setting's, or <data_dir>/adapters.")
    ] = None,
    domain: Annotated[list[str] | None, typer.Option(help="Only this one; may be repeated.")] = None,
    tokens: Annotated[int, typer.Option(min=16, max=1024, help="Tokens of a reply at most.")] = 160,
    replies: Annotated[Path | None, typer.Option(help="Write all replies and verdicts here, as Markdown.")] = None,
    picture: PictureOption = None,
    as_json: JsonOption = False,
) -> None:
    """Held-out loss, score and win rate of the small experts, each against the base. Starts its own worker."""
    settings = settings_of(log_level="warning")
    folder = adapters or settings.adapters or settings.data_dir / "adapters"
    domains = select_domains(folder, domain or list_domains())
    runs = run_async(_ask_all, settings, folder, domains, tokens)
    count_tokens = _load_tokenizer(prepare(settings.model))
    figures = [compare(name, count_tokens, runs[name]) for name in domains]
    if replies is not None:
        replies.parent.mkdir(parents=True, exist_ok=True)
        replies.write_text("\n".join(draw_replies(name, runs[name]) for name in domains), encoding="utf-8")
    publish_report(_report(figures, settings.model), as_json=as_json, picture=picture)


def select_domains(folder: Path, domains: Sequence[str]) -> tuple[str, ...]:
    """Those of ``domains`` whose adapter is in ``folder``.

    Raises:
        SetupError: a domain has no held-out questions, or no adapter is there.
    """
    if unknown := sorted(set(domains) - set(list_domains())):
        raise SetupError(
            f"there are no held-out questions of '{unknown[0]}': expected {', '.join(list_domains())}.", param="domain"
        )
    present = tuple(name for name in domains if (folder / name / "adapters.safetensors").is_file())
    if not present:
        raise SetupError(
            f"no adapter of {', '.join(domains)} in {folder}: 'make adapters' trains them.", param="adapters"
        )
    return present


async def answer_questions(
    bus: Bus,
    domain: str,
    examples: Sequence[ExpertExample],
    *,
    adapters: tuple[AdapterUse, ...],
    max_tokens: int,
    tick: Callable[[], None] = lambda: None,
) -> list[ExpertReply]:
    """The running worker's replies to held-out questions, judged, in the order of ``examples``.

    Raises:
        KikiError: the worker does not answer.
    """
    replies: dict[int, ExpertReply] = {}
    slots = anyio.Semaphore(AT_ONCE)
    sampling = Sampling(temperature=0.0, max_tokens=max_tokens)

    async def ask(messages: tuple[Message, ...], **asks: Any) -> JobResult:
        envelope = new_turn(tenant="bench", timeout=ANSWER_SECONDS)
        result = await bus.ask(envelope, lane="background", messages=messages, adapters=adapters, **asks)
        if [use.name for use in result.adapters] != [use.name for use in adapters]:
            raise StageFailed(f"the worker left out an adapter of {domain}.", code="adapter_failed")
        return result

    async def answer(number: int, example: ExpertExample) -> None:
        messages = (Message(role="user", content=example.question),)
        async with slots:
            text = (await ask(messages, sampling=sampling)).candidates[0].text
            scores = (await ask(messages, choices=(example.answer,))).scores[0]
        verdict = await anyio.to_thread.run_sync(judge_reply, domain, "test", example, text)
        replies[number] = ExpertReply(
            question=example.question, text=text, verdict=verdict, loss=-scores[example.answer]
        )
        tick()

    async with anyio.create_task_group() as tasks:
        for number, example in enumerate(examples):
            tasks.start_soon(answer, number, example)
    return [replies[number] for number in range(len(examples))]


def compare(domain: str, count_tokens: Callable[[str], int], run: ExpertRun) -> ExpertFigures:
    """The figures of one expert; ``count_tokens`` counts those of an answer."""
    base, expert = run.base, run.expert
    points = [(1 + own.verdict.right - other.verdict.right) / 2 for own, other in zip(expert, base, strict=True)]
    tokens = sum(count_tokens(example.answer) for example in read_examples(domain, "test")[: len(base)])
    low, high = bootstrap_interval(points)
    return ExpertFigures(
        domain=domain,
        questions=len(points),
        tokens=tokens,
        base_loss=sum(reply.loss for reply in base) / tokens,
        loss=sum(reply.loss for reply in expert) / tokens,
        base_score=fmean(reply.verdict.right for reply in base),
        score=fmean(reply.verdict.right for reply in expert),
        routed_score=fmean(reply.verdict.right for reply in run.routed),
        base_alone=fmean(reply.verdict.alone for reply in base),
        alone=fmean(reply.verdict.alone for reply in expert),
        wins=points.count(1.0),
        losses=points.count(0.0),
        win_rate=fmean(points),
        low=low,
        high=high,
    )


def draw_replies(domain: str, run: ExpertRun) -> str:
    """Every question with both replies word for word, as Markdown."""
    lines = [f"## {domain}"]
    for plain, own in zip(run.base, run.expert, strict=True):
        lines += ["", f"**{plain.question}**"]
        for name, reply in (("base", plain), ("adapter", own)):
            lines += ["", f"{name}: {'right' if reply.verdict.right else 'wrong'}", ""]
            lines += [f"> {line}".rstrip() for line in reply.text.strip().splitlines()]
    return "\n".join(lines) + "\n"


async def ask_routed(
    bus: Bus,
    domain: str,
    examples: Sequence[ExpertExample],
    choices: Sequence[str | None],
    *,
    base: Sequence[ExpertReply],
    expert: Sequence[ExpertReply],
    max_tokens: int,
) -> list[ExpertReply]:
    """The replies of whom the router chose for each question: a domain's expert, or None for the base. Only what is not
    in ``base`` and ``expert`` yet is asked.

    Raises:
        KikiError: the worker does not answer.
    """
    replies = [own if name == domain else plain for name, own, plain in zip(choices, expert, base, strict=True)]
    for other in sorted({name for name in choices if name not in (None, domain)}, key=str):
        places = [place for place, name in enumerate(choices) if name == other]
        uses, part = (AdapterUse(name=str(other)),), [examples[place] for place in places]
        for place, reply in zip(
            places, await answer_questions(bus, domain, part, adapters=uses, max_tokens=max_tokens), strict=True
        ):
            replies[place] = reply
    return replies


async def _ask_all(settings: Settings, folder: Path, domains: Sequence[str], max_tokens: int) -> dict[str, ExpertRun]:
    """The replies to each domain's questions."""
    runs = {}
    examples = {name: read_examples(name, "test") for name in domains}
    choices = await _choose_experts(settings, examples)
    inference = {**settings.agents.get("inference", {}), "job_concurrency": AT_ONCE}
    agents = {**settings.agents, "inference": inference}
    async with fresh_runtime("inference", adapters=folder.resolve(), agents=agents) as bus:
        with progress_bar("replies", total=2 * sum(map(len, examples.values()))) as tick:
            for name in domains:
                base, expert = [
                    await answer_questions(
                        bus, name, examples[name], adapters=uses, max_tokens=max_tokens, tick=lambda: tick()
                    )
                    for uses in ((), (AdapterUse(name=name),))
                ]
                routed = await ask_routed(
                    bus, name, examples[name], choices[name], base=base, expert=expert, max_tokens=max_tokens
                )
                runs[name] = ExpertRun(base=base, expert=expert, routed=routed)
    return runs


async def _choose_experts(
    settings: Settings, examples: Mapping[str, Sequence[ExpertExample]]
) -> dict[str, list[str | None]]:
    """For each question the first of its routed domains that is measured; None when there is none."""
    choices: dict[str, list[str | None]] = {}
    async with load_router(settings) as router:
        for name, part in examples.items():
            results: list[RoutedPrompt] = []
            for start in range(0, len(part), AT_ONCE):
                prompts = tuple(example.question for example in part[start : start + AT_ONCE])
                results += (await router.route(RouteRequest(prompts=prompts))).results
            choices[name] = [
                next((domain.niche for domain in result.domains if domain.niche in examples), None)
                for result in results
            ]
    return choices


def _load_tokenizer(model: Path) -> Callable[[str], int]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def _report(figures: Sequence[ExpertFigures], model: str) -> BenchReport:
    losses_and_scores = ("loss base", "loss", "score base", "score", "routed", "alone base", "alone")
    table = Table("expert", "questions", *losses_and_scores, "won", "lost", "win rate", "95 %", "helps", box=None)
    for row in figures:
        losses = f"{row.base_loss:.3f}", f"{row.loss:.3f}"
        scores = row.base_score, row.score, row.routed_score, row.base_alone, row.alone
        table.add_row(
            row.domain,
            str(row.questions),
            *losses,
            *(f"{score:.2f}" for score in scores),
            str(row.wins),
            str(row.losses),
            f"{row.win_rate:.2f}",
            f"{row.low:.2f} to {row.high:.2f}",
            "yes" if row.helps else "no",
        )
    rows = [{**asdict(row), "oracle_ratio": row.oracle_ratio, "helps": row.helps} for row in figures]
    return BenchReport(
        bench="experts",
        fields={"model": model, "experts": rows},
        tables=[table],
        chart=bar_chart(
            [row.domain for row in figures],
            {
                "base": [row.base_score for row in figures],
                "adapter": [row.score for row in figures],
                "routed": [row.routed_score for row in figures],
            },
            unit="share of right replies",
            decimals=2,
            caption=model,
        ),
    )
