"""``kiki dream ls | status | run | export`` and ``kiki bench exchange``: consolidation from the command line."""

import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.progress import Progress
from rich.table import Table

from agents.dream.beta import jsonl, record
from bus import stream
from bus.connection import Bus, connect
from bus.topology import DREAMLOG, EPISODES
from runtime import contest, dreaming, exchanging
from runtime.cli import NatsOption, command, err, on_bus, out, run_async, settings_of
from runtime.cli.bench import machine
from runtime.composition import bus_settings
from runtime.models import prepare
from runtime.supervisor import Supervisor
from schemas.codec import decode, encode
from schemas.dream import (
    BetaRecord,
    Budget,
    DreamAborted,
    DreamDone,
    DreamEpisode,
    DreamStatus,
    DreamStatusRequest,
    DreamSwapped,
    InputSlice,
)
from schemas.events import EpisodeRecorded

app = typer.Typer(help="Dream episodes: what the runtime lived through, learned by an adapter.", no_args_is_help=True)
TIMEOUT = 30.0
CLIENTS = 8


def hang(bench: typer.Typer) -> None:
    """Hang ``exchange`` on the benches."""
    bench.command()(command(exchange))


@app.command(name="ls")
@command
def list_dreams(nats: NatsOption = None) -> None:
    """List what was dreamt: one line for each episode that was executed, and for each swap."""

    async def listed(bus: Bus) -> None:
        table = Table("episode", "state", "adapter", "what", box=None)
        async for message in stream.read(bus, DREAMLOG, bus.subjects.dream_log):
            table.add_row(*_row(message.subject.split(".")[-2], message.data))
        out.print(table if table.row_count else "nothing was dreamt yet")

    on_bus(listed, nats)


@app.command()
@command
def status(episode: Annotated[str, typer.Argument(help="The episode's id.")], nats: NatsOption = None) -> None:
    """Say how far an episode has come, as JSON."""

    async def told(bus: Bus) -> None:
        found = await bus.request("dream.status", DreamStatusRequest(episode_id=episode), DreamStatus, timeout=TIMEOUT)
        out.print_json(encode(found).decode())

    on_bus(told, nats)


@app.command()
@command
def run(
    adapter: Annotated[str, typer.Argument(help="The adapter that learns.")],
    service: Annotated[str, typer.Option(help="The registered service whose records are learned and marked.")],
    limit: Annotated[int, typer.Option(min=1, max=256, help="Records of one episode.")] = 32,
    minutes: Annotated[float, typer.Option(min=0.1, help="The episode's budget of time.")] = 30.0,
    nats: NatsOption = None,
) -> None:
    """Replay and downscale the service's oldest records, swap the adapter, and mark the records."""

    async def ran(bus: Bus) -> None:
        found = await dreaming.fetched(bus, service, limit)
        if not found.records:
            out.print("no records wait")
            return
        wanted = _episode(adapter, found.records, minutes * 60.0)
        done = await dreaming.dreamt(bus, "P_min", wanted)
        swapped = await dreaming.swapped(bus, done)
        await dreaming.marked(bus, service, done)
        accuracy = f"retained {swapped.retained_before:.2f} -> {swapped.retained_after:.2f}"
        out.print(f"{adapter} is {swapped.sha256[:12]} now: {len(found.records)} records, {accuracy}", highlight=False)

    on_bus(ran, nats)


@app.command()
@command
def export(
    to: Annotated[Path, typer.Argument(help="The JSONL file, as dream-of-kiki's load_beta_jsonl reads it.")],
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's episodes.")] = None,
    min_saillance: Annotated[float, typer.Option(min=0.0, max=1.0, help="Only episodes of at least this.")] = 0.0,
    nats: NatsOption = None,
) -> None:
    """Write the record as beta records, oldest first."""

    async def exported(bus: Bus) -> None:
        count = 0
        with to.open("wb") as file:
            async for message in stream.read(bus, EPISODES, [bus.subjects.stage(EpisodeRecorded.subject)]):
                episode = decode(EpisodeRecorded, message.data).episode
                if (tenant in (None, episode.tenant)) and episode.saillance_score >= min_saillance:
                    count += 1
                    file.write(jsonl([record(message.seq, episode)]))
        out.print(f"{count} records in {to}", highlight=False)

    on_bus(exported, nats)


def exchange(
    times: Annotated[int, typer.Option(min=10, max=1000, help="Exchanges.")] = 100,
    tokens: Annotated[int, typer.Option(min=8, max=512, help="Tokens of each answer meanwhile.")] = 64,
    rank: Annotated[int, typer.Option(min=1, max=64, help="Rank of the adapter, on all linear modules.")] = 16,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON only.")] = False,
) -> None:
    """The pause of an adapter's exchange while 8 requests decode with it. Starts a worker of its own."""

    async def measured() -> list[exchanging.Pause]:
        with tempfile.TemporaryDirectory(prefix="kiki-bench-") as directory:
            folder = Path(directory) / "adapters"
            folder.mkdir()
            model = prepare(settings_of(log_level="warning").model)
            (name,) = contest.random_adapters(model, folder, count=1, rank=rank)
            settings = settings_of(data_dir=Path(directory) / "data", nats_port=0, log_level="warning", adapters=folder)
            supervisor = Supervisor(settings, names=("inference",))
            async with supervisor.running(), connect(bus_settings(supervisor.settings), name="kiki-bench") as bus:
                return await _pauses(bus, name, times, tokens)

    found = run_async(measured)
    columns = {part: [getattr(one, part) for one in found] for part in ("pause_ms", "answered_ms", "rows")}
    if as_json:
        rows = [asdict(one) for one in found]
        out.out(json.dumps({"bench": "exchange", "unit": "ms", "machine": machine(), "rank": rank, "rows": rows}))
        return
    title = f"{len(found)} exchanges (rank {rank}) while {min(columns['rows'])} to {max(columns['rows'])} rows decode"
    table = Table("ms", "p50", "p99", "max", title=title, box=None)
    for part, name in (("pause_ms", "without decoding"), ("answered_ms", "asked to answered")):
        p50, p99 = np.percentile(columns[part], [50, 99])
        table.add_row(name, f"{p50:.1f}", f"{p99:.1f}", f"{max(columns[part]):.1f}")
    out.print(table)
    out.print(f"{machine()}", style="dim", highlight=False)


async def _pauses(bus: Bus, name: str, times: int, tokens: int) -> list[exchanging.Pause]:
    await bus.reconcile()
    ask, number = contest.ours(bus), iter(range(10**9))

    async def busy() -> None:
        await ask(contest.prompts(1, first=next(number))[0], name, tokens)

    await busy()
    with Progress(console=err, transient=True) as progress:
        task = progress.add_task("exchanging", total=times)
        return await exchanging.pauses(
            bus, name, busy, times=times, clients=CLIENTS, tick=lambda: progress.advance(task)
        )


def _episode(adapter: str, records: tuple[BetaRecord, ...], seconds: float) -> DreamEpisode:
    return DreamEpisode(
        episode_id=f"de-{adapter}-{records[0].id}".replace(".", "_")[-64:],
        trigger="external",
        input_slice=InputSlice(adapter=adapter, beta_records=records),
        operation_set=("replay", "downscale"),
        output_channels=("weight_delta",),
        budget=Budget(flops=1e18, wall_time_s=seconds, energy_j=1e9),
    )


def _row(verb: str, data: bytes) -> tuple[str, str, str, str]:
    if verb == "swapped":
        swap = decode(DreamSwapped, data)
        accuracy = f"retained {swap.retained_before:.2f} -> {swap.retained_after:.2f}, pause {swap.pause_ms:.0f} ms"
        return swap.envelope.turn_id, verb, swap.adapter, f"{swap.sha256[:12]}, {accuracy}"
    kind: Any = DreamDone if verb == "done" else DreamAborted
    entry = decode(kind, data)
    report = entry.report
    what = f"{', '.join(report.executed) or '-'}; {len(report.record_ids)} records"
    return report.episode_id, verb, report.adapter, f"{what}; {entry.message}" if verb == "aborted" else what
