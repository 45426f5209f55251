"""``kiki router train | dialogues | eval | export``: train, score, write for others."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from runtime.cli import command, out, settings_of
from runtime.cli.pictures import draw_confusion, draw_reliability

if TYPE_CHECKING:
    from agents.router.training.evaluation import RouterFigures

CheckpointOption = Annotated[
    str | None, typer.Option(help="Another checkpoint: its folder, or a Hugging Face id; the shipped one by default.")
]

PicturesOption = Annotated[
    Path | None,
    typer.Option(help="Folder for the reliability diagram and the confusion matrix (needs the extra 'bench')."),
]

app = typer.Typer(help="The router: train, evaluate, export.", no_args_is_help=True)

SHIPPED = Path(__file__).parents[2] / "configs" / "router"
"""The folder of the shipped weights in a checkout."""


@app.command()
@command
def train(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the weights.")] = SHIPPED,
    corpus: Annotated[Path | None, typer.Option(help="Folder of JSONL files; the shipped corpus by default.")] = None,
    pictures: PicturesOption = None,
) -> None:
    """Train from the corpus; from the shipped corpus this reproduces the shipped weights."""
    from agents.router.training import evaluation
    from agents.router.training import train as training

    figures = training.train(embedder=_prepare_embedder(), out=output, corpus=corpus)
    _draw(figures, pictures)
    out.print(evaluation.report(figures), markup=False, highlight=False, soft_wrap=True)


@app.command()
@command
def dialogues(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the head's file.")] = SHIPPED,
) -> None:
    """Train the head that reads conversations, from the shipped dialogues; print its cross-validated figures."""
    from agents.router.training import dialogues as training

    out.print(training.report(training.train_head(embedder=_prepare_embedder(), out=output)), markup=False)


@app.command(name="eval")
@command
def evaluate(
    path: Annotated[Path, typer.Argument(help='JSONL of {"prompt", "domain"} or {"prompt", "labels"} lines.')],
    checkpoint: CheckpointOption = None,
    json_out: Annotated[Path | None, typer.Option("--json-out", help="Write the figures as JSON here.")] = None,
    pictures: PicturesOption = None,
) -> None:
    """Score labelled prompts: top-1, top-3, coverage, calibration, confusions."""
    from agents.router.training import evaluation

    figures, text = evaluation.evaluate(
        path, embedder=_prepare_embedder(), checkpoint=_find_checkpoint(checkpoint), json_out=json_out
    )
    _draw(figures, pictures)
    out.print(text, markup=False, highlight=False, soft_wrap=True)


@app.command()
@command
def export(
    output: Annotated[Path, typer.Argument(help="Folder for the exported checkpoint.")],
    checkpoint: CheckpointOption = None,
) -> None:
    """Write the classifier alone, in the format of the first micro-kiki (the monolith)."""
    from agents.router.training import train as training

    training.export(out=output, checkpoint=_find_checkpoint(checkpoint))
    out.print(f"written to {output}", highlight=False)


def _draw(figures: "RouterFigures", folder: Path | None) -> None:
    if folder is not None:
        draw_reliability(figures, folder / "router-reliability.png")
        draw_confusion(figures, folder / "router-confusion.png")


def _find_checkpoint(name: str | None) -> Path | None:
    from runtime.models import router_checkpoint

    return None if name is None else router_checkpoint(name)


def _prepare_embedder() -> Path:
    from runtime.models import prepare, show_progress

    settings = settings_of()
    with show_progress() as progress:
        return prepare(settings.embedder, progress=progress)
