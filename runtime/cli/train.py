"""``kiki train``: an adapter from its recipe and data to its place, judged."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from agents.inference.finetuning.messages import (
    IterationBegan,
    MemoryNeed,
    TrainingMessage,
    TrainingNote,
    TrainLoss,
    ValidationLoss,
)
from bus.broker.ownership import find_holder
from bus.connection import connect
from runtime.cli import NatsOption, command, err, out, run_async, say, settings_of
from runtime.composition import bus_settings
from runtime.models import show_progress
from runtime.settings import Settings
from runtime.training.curriculum import load_curriculum
from runtime.training.plan import TrainingOptions, TrainingPlan, is_finished, make_plan
from runtime.training.proposal import describe_fate, is_listed, propose
from runtime.training.session import TrainingResult, describe_need, list_trainable, train_domain
from runtime.training.workspace import training_lock
from schemas.adapters import AdapterRejected
from schemas.errors import InvalidInput, StageFailed, Unavailable


def add_verbs(app: typer.Typer) -> None:
    """Add ``kiki train``."""
    app.command()(train)


@command
def train(
    domain: Annotated[str | None, typer.Argument(help="One of the 35 domains; none with --curriculum.")] = None,
    curriculum: Annotated[
        bool,
        typer.Option("--curriculum", help="All domains that have data, foundations first; finished ones are skipped."),
    ] = False,
    data: Annotated[
        Path | None, typer.Option(help="Folder of train.jsonl (valid, test); with --curriculum the folder above.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Base with float weights: name, Hugging Face id or path. None: the recipe's.")
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(help="YAML as mlx-lm takes it. None: configs/lora/<domain>.yaml.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Adapters folder for the result. None: the setting's.")] = None,
    wait: Annotated[float, typer.Option(min=0, help="Seconds that a running runtime has to judge the result.")] = 120.0,
    nats: NatsOption = None,
) -> None:
    """Train a domain's adapter: checked first, resumable, one at a time, judged before it is served.

    Run the same command again after a crash or Ctrl-C: it goes on from the last checkpoint. What is finished stays.
    """
    if curriculum == (domain is not None):
        raise InvalidInput("name one domain, or give --curriculum and none.", param="domain")
    settings = settings_of(nats=nats)
    options = TrainingOptions(data=data, model=model, recipe=recipe, output=output)
    title = "kiki train --curriculum" if domain is None else f"kiki train {domain}"
    with training_lock(settings.data_dir, title=title) as lock:
        domains = [(domain, options)] if domain is not None else list(list_trainable(load_curriculum(), options))
        if not domains:
            raise InvalidInput(
                f"no domain of the curriculum has a train.jsonl in {data or 'the folders that its recipes name'}.",
                param="data",
            )
        for name, own in domains:
            plan = _plan(name, own, settings)
            if is_finished(plan):
                earlier = f"finished before, from the same base, data and recipe: {plan.place}"
                out.print(f"{name}: {earlier}; remove it to train again", highlight=False, soft_wrap=True)
            else:
                _train_planned(plan, settings, lock, wait)


def _plan(domain: str, options: TrainingOptions, settings: Settings) -> TrainingPlan:
    with show_progress(console=err) as progress:
        return make_plan(domain, options, settings, say=say, progress=progress)


def _train_planned(plan: TrainingPlan, settings: Settings, lock: int, wait: float) -> None:
    examples = ", ".join(f"{count} {name}" for name, count in plan.data.counts.items())
    say(f"{plan.domain}: {plan.recipe.iters} iterations on {plan.base}; examples: {examples} ({plan.data.form})")
    with _Screen.show(plan) as screen:
        result = train_domain(plan, settings, lock=lock, say=say, on_message=screen.follow)
    _print_result(plan, result)
    _propose(plan, result, settings, wait)


def _print_result(plan: TrainingPlan, result: TrainingResult) -> None:
    losses = "" if result.last_loss is None else f", loss {result.last_loss:.3f}"
    if result.validation_losses:
        losses += f", validation {result.validation_losses[0]:.3f} -> {result.validation_losses[-1]:.3f}"
    done = result.done
    out.print(
        f"{plan.domain}: trained {done.parameters:,} parameters in {done.modules} modules, {done.seconds:.0f} s"
        f"{losses}, peak {done.peak_memory / 1e9:.2f} GB; gate passed ({len(result.report.priors)} compared); "
        f"{result.sha256[:12]} in {result.place}",
        highlight=False,
        soft_wrap=True,
    )


def _propose(plan: TrainingPlan, result: TrainingResult, settings: Settings, wait: float) -> None:
    """Have a running runtime judge the adapter; say how it will be judged where none runs."""
    if settings.nats is None and find_holder(settings.data_dir) is None:
        say(f"no runtime runs: one whose adapters folder is {plan.output} judges it when it sees it")
        return
    try:
        run_async(_propose_on_bus, plan, result, settings, wait)
    except Unavailable as error:
        say(f"not proposed ({error.message}): a runtime judges it when it sees it")


async def _propose_on_bus(plan: TrainingPlan, result: TrainingResult, settings: Settings, wait: float) -> None:
    async with connect(bus_settings(settings), name="kiki-train") as bus:
        listed = await is_listed(bus, plan.domain)
        if not listed:
            reason = "no worker answers" if listed is None else f"the worker's adapters folder is not {plan.output}"
            say(f"not proposed ({reason}): a runtime that sees it judges it")
            return
        fate = await propose(bus, plan.domain, sha256=result.sha256, base_model=plan.base, wait=wait)
    if isinstance(fate, AdapterRejected):
        raise StageFailed(f"{plan.domain} was {describe_fate(fate, wait)}", code=fate.code, param="gate")
    out.print(f"{plan.domain}: {describe_fate(fate, wait)}", highlight=False, soft_wrap=True)


class _Screen:
    """A progress bar with the last losses."""

    def __init__(self, bars: Progress, plan: TrainingPlan) -> None:
        self._bars = bars
        self._task = bars.add_task(plan.domain, total=plan.recipe.iters, losses="loading the base")
        self._losses: dict[str, float] = {}

    @classmethod
    @contextlib.contextmanager
    def show(cls, plan: TrainingPlan) -> Iterator["_Screen"]:
        """The bar on standard error, for the length of a training."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[losses]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=err) as bars:
            yield cls(bars, plan)

    def follow(self, message: TrainingMessage) -> None:
        """Show what the trainer says."""
        if isinstance(message, IterationBegan):
            self._bars.update(self._task, completed=message.iteration - 1)
        elif isinstance(message, TrainingNote):
            say(message.text)
        elif isinstance(message, MemoryNeed):
            say(describe_need(message))
        elif isinstance(message, (TrainLoss, ValidationLoss)):
            name = "train" if isinstance(message, TrainLoss) else "valid"
            self._losses[name] = message.loss
            losses = ", ".join(f"{name} {loss:.3f}" for name, loss in self._losses.items())
            self._bars.update(self._task, completed=message.iteration, losses=losses)
