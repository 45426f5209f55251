"""``kiki bench fidelity``: what int8 weights change, on the project's own documents and code."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer
from rich.table import Table

import runtime
from runtime.bench.harness import BenchReport, JsonOption, PictureOption, progress_bar, publish_report
from runtime.bench.plots import bar_chart
from runtime.cli import command, settings_of
from runtime.models import digest, int8_folder, prepare, show_progress
from runtime.settings import Settings
from schemas.errors import SetupError

if TYPE_CHECKING:
    from agents.inference.probing.fidelity import Fidelity
    from agents.inference.settings import InferenceSettings

ROOMS = ("schemas", "bus", "agents", "runtime")


@command
def fidelity(
    tokens: Annotated[int, typer.Option(min=100, max=1_000_000, help="Tokens to read, half of them code.")] = 20_000,
    picture: PictureOption = None,
    as_json: JsonOption = False,
) -> None:
    """Perplexity with float32 and with int8 weights, and how often both find the same token the likeliest."""
    from agents.inference.mlx import cpu

    cpu.preload()
    from agents.inference.probing.fidelity import measure_fidelity

    texts = read_texts(Path(runtime.__file__).parents[1])
    worker_settings = _prepare_worker_settings(settings_of(log_level="warning"))
    with progress_bar("tokens", total=2 * tokens) as tick:
        figures = measure_fidelity(worker_settings, texts, tokens=tokens, on_advance=tick)
    publish_report(_report(worker_settings.model_name, figures), as_json=as_json, picture=picture)


def read_texts(root: Path) -> dict[str, list[str]]:
    """The documents and the code of a source tree, a text a file.

    Raises:
        SetupError: one of them is not there.
    """
    paths = {
        "documents": [*root.glob("README.md"), *sorted(root.glob("docs/*.md"))],
        "code": sorted(path for room in ROOMS for path in (root / room).rglob("*.py")),
    }
    for kind, files in paths.items():
        if not files or (kind == "documents" and not (root / "docs").is_dir()):
            raise SetupError(f"{root} has no {kind}: run this bench in a checkout of the project.")
    return {kind: [path.read_text(encoding="utf-8") for path in files] for kind, files in paths.items()}


def _prepare_worker_settings(settings: Settings) -> "InferenceSettings":
    """The worker's settings for the chat model, which is fetched if it is missing."""
    from agents.inference.settings import InferenceSettings

    with show_progress() as progress:
        model = prepare(settings.model, progress=progress)
    model_digest = digest(model)
    return InferenceSettings(
        model=model,
        model_name=settings.model,
        model_digest=model_digest,
        int8_folder=int8_folder(model, model_digest),
    )


def _report(model: str, figures: "list[Fidelity]") -> BenchReport:
    table = Table("texts", "tokens", "float32 perplexity", "int8 perplexity", "ratio", "same likeliest token", box=None)
    for row in figures:
        perplexities = f"{row.float32_perplexity:.3f}", f"{row.int8_perplexity:.3f}"
        table.add_row(row.kind, str(row.tokens), *perplexities, f"{row.ratio:.4f}", f"{row.agreement:.2%}")
    return BenchReport(
        bench="fidelity",
        fields={"model": model, "rows": [msgspec.to_builtins(row) for row in figures]},
        tables=[table],
        chart=bar_chart(
            [row.kind for row in figures],
            {
                "float32": [row.float32_perplexity for row in figures],
                "int8": [row.int8_perplexity for row in figures],
            },
            unit="perplexity",
            decimals=2,
            caption=model,
        ),
    )
