"""``kiki dream ls | status | run | export``: consolidation from the command line."""

from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from agents.dream.beta import beta_record, jsonl
from bus import record, stream
from bus.connection import Bus
from bus.subjects import Subjects
from bus.topology import DREAMLOG
from runtime import dreaming
from runtime.cli import NatsOption, command, out, run_on_bus
from schemas.calls import DREAM_STATUS
from schemas.codec import decode, encode
from schemas.dream import (
    BetaRecord,
    Budget,
    DreamAborted,
    DreamDone,
    DreamEpisode,
    DreamStatusRequest,
    DreamSwapped,
    InputSlice,
)
from schemas.errors import InvalidEvent

app = typer.Typer(help="Dream episodes: an adapter learns from recorded turns.", no_args_is_help=True)
TIMEOUT = 30.0


@app.command(name="ls")
@command
def list_dreams(nats: NatsOption = None) -> None:
    """List the dream log: one line for each episode that was executed, and for each swap."""

    async def print_list(bus: Bus) -> None:
        table = Table("episode", "state", "adapter", "what", box=None)
        async with aclosing(stream.read_stream(bus, DREAMLOG, bus.subjects.dream_log)) as messages:
            async for message in messages:
                table.add_row(*_row(message))
        out.print(table if table.row_count else "the dream log is empty")

    run_on_bus(print_list, nats)


@app.command()
@command
def status(episode: Annotated[str, typer.Argument(help="The episode's id.")], nats: NatsOption = None) -> None:
    """Say how far an episode has come, as JSON."""

    async def print_status(bus: Bus) -> None:
        dream_status = await bus.request(DREAM_STATUS, DreamStatusRequest(episode_id=episode), timeout=TIMEOUT)
        out.print_json(encode(dream_status).decode())

    run_on_bus(print_status, nats)


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

    async def dream_once(bus: Bus) -> None:
        batch = await dreaming.fetch_records(bus, service, limit)
        while batch.tombstones and not batch.records:
            await dreaming.mark_tombstones(bus, service, batch.tombstones)
            batch = await dreaming.fetch_records(bus, service, limit)
        if not batch.records:
            out.print("no records wait")
            return
        episode = _episode(adapter, batch.records, minutes * 60.0)
        dream_status = await dreaming.run_episode(bus, "P_min", episode)
        swap_reply = await dreaming.swap_weights(bus, dream_status)
        await dreaming.mark_records(bus, service, dream_status, tombstones=batch.tombstones)
        accuracy = f"retained {swap_reply.retained_before:.2f} -> {swap_reply.retained_after:.2f}"
        out.print(
            f"{adapter} is {swap_reply.sha256[:12]} now: {len(batch.records)} records, {accuracy}", highlight=False
        )

    run_on_bus(dream_once, nats)


@app.command()
@command
def export(
    to: Annotated[Path, typer.Argument(help="The JSONL file, as dream-of-kiki's load_beta_jsonl reads it.")],
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's episodes.")] = None,
    user: Annotated[str | None, typer.Option(help="Only this user's episodes.")] = None,
    min_saillance: Annotated[float, typer.Option(min=0.0, max=1.0, help="Only episodes of at least this.")] = 0.0,
    nats: NatsOption = None,
) -> None:
    """Write the record as beta records, oldest first."""

    async def write_records(bus: Bus) -> None:
        count = unreadable = 0
        with to.open("wb") as file:
            async with aclosing(record.read_entries(bus)) as entries:
                async for message, episode in entries:
                    if episode is None:
                        unreadable += 1
                        continue
                    is_wanted = tenant in (None, episode.tenant) and user in (None, episode.user)
                    if is_wanted and episode.saillance_score >= min_saillance:
                        count += 1
                        file.write(jsonl([beta_record(message.seq, episode)]))
        out.print(f"{count} records in {to}" + (f", {unreadable} unreadable" if unreadable else ""), highlight=False)

    run_on_bus(write_records, nats)


def _episode(adapter: str, records: tuple[BetaRecord, ...], seconds: float) -> DreamEpisode:
    return DreamEpisode(
        episode_id=f"de-{adapter}-{records[0].id}".replace(".", "_")[-64:],
        trigger="external",
        input_slice=InputSlice(adapter=adapter, beta_records=records),
        operation_set=("replay", "downscale"),
        output_channels=("weight_delta",),
        budget=Budget(flops=1e18, wall_time_s=seconds, energy_j=1e9),
    )


def _row(message: stream.StoredMessage) -> tuple[str, str, str, str]:
    """A line of the dream log; a message that nobody can read is named by its sequence."""
    try:
        return _entry_row(Subjects.kind(message.subject).removeprefix("dream."), message.data)
    except InvalidEvent as error:
        return Subjects.key(message.subject), "unreadable", "-", f"message {message.seq} of {DREAMLOG}: {error.message}"


def _entry_row(verb: str, data: bytes) -> tuple[str, str, str, str]:
    if verb == "swapped":
        swap = decode(DreamSwapped, data)
        accuracy = f"retained {swap.retained_before:.2f} -> {swap.retained_after:.2f}, pause {swap.pause_ms:.0f} ms"
        return swap.envelope.turn_id, verb, swap.adapter, f"{swap.sha256[:12]}, {accuracy}"
    kind: Any = DreamDone if verb == "done" else DreamAborted
    entry = decode(kind, data)
    report = entry.report
    owners = ", ".join(f"{owner.tenant}/{owner.user}" for owner in report.owners)
    of_whom = f" of {owners}" if owners else ""
    summary = f"{', '.join(report.executed) or '-'}; {len(report.record_ids)} records{of_whom}"
    return report.episode_id, verb, report.adapter, f"{summary}; {entry.message}" if verb == "aborted" else summary
