"""``kiki bench router``: the router against bare mpnet, as JSON, a table and a picture."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress
from rich.table import Table

from runtime.cli import command, err, out, run_async, settings_of
from runtime.cli.bench import machine
from runtime.cli.pictures import canvas
from runtime.settings import Settings

ROUTER, BARE = "router", "bare mpnet"


def hang(app: typer.Typer) -> None:
    """Add the verb."""
    app.command(name="router")(router)


@command
def router(
    singles: Annotated[int, typer.Option(min=10, max=2000, help="Prompts one after another.")] = 150,
    rounds: Annotated[int, typer.Option(min=2, max=200, help="Rounds of prompts at once.")] = 12,
    width: Annotated[int, typer.Option(min=2, max=64, help="Prompts at once.")] = 16,
    picture: Annotated[Path | None, typer.Option(help="Write a picture here (needs the extra 'bench').")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False,
) -> None:
    """Milliseconds to route a prompt, alone and 16 at once, beside a bare forward pass of the embedder."""
    report = run_async(_measure, settings_of(log_level="warning"), singles, rounds, width)
    if picture is not None:
        _draw(report, picture)
    if as_json:
        out.out(json.dumps(report))
        return
    table = Table("what", "at once", "p50 ms", "p95 ms", "prompts/s", title="kiki bench router", box=None)
    for row in report["rows"]:
        table.add_row(row["what"], str(row["at_once"]), f"{row['p50']:.1f}", f"{row['p95']:.1f}", f"{row['rate']:.1f}")
    out.print(table)
    out.print(
        f"alone {report['single_ratio']:.2f}x the latency of {BARE}; {width} at once "
        f"{report['crowd_ratio']:.2f}x its latency and {report['rate_ratio']:.2f}x its prompts/s",
        highlight=False,
    )
    out.print(f"{report['machine']}", style="dim", highlight=False)


async def _measure(settings: Settings, singles: int, rounds: int, width: int) -> dict[str, Any]:
    from agents.embedder.embedder import default_threads
    from runtime import latency
    from runtime.local_router import load_router
    from runtime.models import prepare

    async with load_router(settings) as router_agent:
        bare = latency.bare_call(prepare(settings.embedder), threads=default_threads())
        with Progress(console=err, transient=True) as progress:
            task = progress.add_task("prompts", total=singles + rounds)
            latencies = await latency.measure(
                {BARE: bare, ROUTER: latency.router_call(router_agent)},
                singles=singles,
                rounds=rounds,
                width=width,
                tick=lambda: progress.advance(task),
            )
        latencies.append(await latency.measure_repeated(latency.router_call(router_agent), times=singles))
    row = {(figures.what, figures.at_once): figures for figures in latencies}
    return {
        "bench": "router",
        "unit": "ms",
        "machine": machine(),
        "rows": [asdict(figures) for figures in latencies],
        "single_ratio": row[ROUTER, 1].p50 / row[BARE, 1].p50,
        "crowd_ratio": row[ROUTER, width].p50 / row[BARE, width].p50,
        "rate_ratio": row[ROUTER, width].rate / row[BARE, width].rate,
    }


def _draw(report: dict[str, Any], path: Path) -> None:
    rows = report["rows"]
    with canvas(path, width=8, height=4) as (figure, axes):
        names = [f"{row['what']}\n{row['at_once']} at once" for row in rows]
        for offset, key in ((-0.2, "p50"), (0.2, "p95")):
            bars = axes.bar([index + offset for index in range(len(rows))], [row[key] for row in rows], 0.4, label=key)
            axes.bar_label(bars, fmt="%.1f", fontsize=8)
        axes.set_xticks(range(len(rows)), names, fontsize=8)
        axes.set_ylabel("ms a prompt")
        axes.set_yscale("log")
        axes.legend()
        figure.suptitle(f"kiki bench router: {report['machine']['system']}, {report['machine']['cores']} cores")
