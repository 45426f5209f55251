"""``kiki router train | eval | export``: the classifier, made again from the corpus."""

from pathlib import Path
from typing import Annotated

import typer

from runtime.cli import command, out, settings_of

app = typer.Typer(help="The router: train, evaluate, export.", no_args_is_help=True)

SHIPPED = Path(__file__).parents[2] / "configs" / "router"
"""Where the weights of a checkout lie."""


@app.command()
@command
def train(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the weights.")] = SHIPPED,
    corpus: Annotated[Path | None, typer.Option(help="Folder of JSONL files; the shipped corpus by default.")] = None,
) -> None:
    """Train from the corpus; from the shipped corpus this reproduces the shipped weights."""
    from agents.router import evaluation, training

    figures = training.train(embedder=_embedder(), out=output, corpus=corpus)
    out.print(evaluation.report(figures), markup=False, highlight=False, soft_wrap=True)


@app.command(name="eval")
@command
def evaluate(
    path: Annotated[Path, typer.Argument(help='JSONL of {"prompt", "domain"} or {"prompt", "labels"} lines.')],
    checkpoint: Annotated[Path | None, typer.Option(help="Folder of another checkpoint.")] = None,
    json_out: Annotated[Path | None, typer.Option("--json-out", help="Write the figures as JSON here.")] = None,
) -> None:
    """Score labelled prompts: top-1, top-3, coverage, calibration, confusions."""
    from agents.router import evaluation

    _, text = evaluation.evaluate(path, embedder=_embedder(), checkpoint=checkpoint, json_out=json_out)
    out.print(text, markup=False, highlight=False, soft_wrap=True)


@app.command()
@command
def export(
    output: Annotated[Path, typer.Argument(help="Folder for the exported checkpoint.")],
    checkpoint: Annotated[Path | None, typer.Option(help="Folder of another checkpoint.")] = None,
) -> None:
    """Write the classifier in the monolith's format."""
    from agents.router import training

    training.export(out=output, checkpoint=checkpoint)
    out.print(f"written to {output}", highlight=False)


def _embedder() -> Path:
    from runtime.models import prepare, shown

    settings = settings_of()
    with shown() as progress:
        return prepare(settings.embedder, progress=progress)
