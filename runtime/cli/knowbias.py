"""``kiki knowbias probe | show | check``: the chat model's bias-knowledge neurons (KnowBias)."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from runtime.cli import command, out, settings_of
from runtime.settings import Settings

if TYPE_CHECKING:
    from agents.inference.settings import InferenceSettings

app = typer.Typer(help="Bias-knowledge neurons of the chat model.", no_args_is_help=True)

FileArgument = Annotated[
    Path | None, typer.Argument(help="Where the neurons are; knowbias.json of the data directory.")
]
QuestionsOption = Annotated[Path | None, typer.Option(help="JSONL of yes/no questions; the shipped set by default.")]


@app.command()
@command
def probe(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Where to write the neurons.")] = None,
    questions: QuestionsOption = None,
    steps: Annotated[int, typer.Option(min=2, help="Steps of the integrated gradients.")] = 20,
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Share of a prompt's largest attribution.")] = 0.1,
    share: Annotated[float, typer.Option(min=0, max=1, help="Share of prompts that a neuron must matter for.")] = 0.49,
    at_once: Annotated[int, typer.Option(min=1, help="Steps in one batch: fewer need less memory.")] = 20,
) -> None:
    """Find the neurons and keep them. Takes minutes for a small model, hours for a large one."""
    from agents.inference.mlx import cpu

    cpu.preload()
    from agents.inference.knowbias import neurons
    from agents.inference.probing import probe as knowbias
    from agents.inference.probing.questions import SHIPPED, read_questions

    settings = settings_of()
    options = knowbias.ProbeOptions(steps=steps, threshold=threshold, share=share, at_once=at_once)
    probing = knowbias.Probe(_prepare_worker_settings(settings), read_questions(questions or SHIPPED), options)
    with _progress_bars() as bars:
        task = bars.add_task("gates", total=probing.total)
        neurons_file = probing.run(lambda: bars.advance(task))
    path = output or _neurons_path(settings)
    neurons.write_neurons(path, neurons_file)
    out.print(
        f"{neurons_file.count} neurons in {len(neurons_file.gates)} gates, written to {path}",
        highlight=False,
        soft_wrap=True,
    )


@app.command()
@command
def show(path: FileArgument = None) -> None:
    """Say which neurons are kept, and how they were found."""
    from agents.inference.knowbias import neurons

    file = neurons.read_neurons(path or _neurons_path(settings_of()))
    out.print(
        f"{file.model} ({file.model_digest[:12]}): {file.count} neurons, {file.prompts} prompts "
        f"(questions {file.questions[:12]}), {file.steps} steps, over {file.threshold} of the largest "
        f"in more than {file.share:.0%}",
        highlight=False,
        soft_wrap=True,
    )
    table = Table("gate", "neurons", box=None)
    for gate, indices in file.gates.items():
        table.add_row(gate, " ".join(map(str, indices)))
    out.print(table)


@app.command()
@command
def check(
    path: FileArgument = None,
    factor: Annotated[list[float] | None, typer.Option(help="Factors to try, besides 1.")] = None,
    questions: QuestionsOption = None,
) -> None:
    """Compare the answers to the held-out questions with and without each factor."""
    from agents.inference.mlx import cpu

    cpu.preload()
    from agents.inference.knowbias import neurons
    from agents.inference.probing import probe as knowbias
    from agents.inference.probing.questions import SHIPPED, read_questions

    settings = settings_of()
    trial = knowbias.Trial(_prepare_worker_settings(settings), neurons.read_neurons(path or _neurons_path(settings)))
    held_out = [question for question in read_questions(questions or SHIPPED) if question.held_out]
    factors = [1.0, *(factor or [1.5, 2.0, 3.0])]
    table = Table("factor", "gold log-probability", "lead", "right", box=None)
    with _progress_bars() as bars:
        task = bars.add_task("questions", total=len(held_out) * len(factors))
        for tried_factor in factors:
            answers = trial.answer_questions(held_out, factor=tried_factor, on_advance=lambda: bars.advance(task))
            figures = knowbias.figures(answers)
            table.add_row(f"{tried_factor:g}", f"{figures.gold:.3f}", f"{figures.lead:+.3f}", f"{figures.right:.0%}")
    out.print(table)


def _neurons_path(settings: Settings) -> Path:
    return settings.data_dir / "knowbias.json"


def _prepare_worker_settings(settings: Settings) -> "InferenceSettings":
    """The worker's settings for the chat model, which is fetched if it is missing."""
    from agents.inference.settings import InferenceSettings
    from runtime.models import digest, prepare, show_progress

    with show_progress() as progress:
        model = prepare(settings.model, progress=progress)
    return InferenceSettings(model=model, model_name=settings.model, model_digest=digest(model))


def _progress_bars() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))
