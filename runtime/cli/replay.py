"""``kiki replay``: the record as it was written, a turn's recorded inputs, and a turn run once more."""

import contextlib
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import IO, Annotated

import msgspec
import typer
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from agents.memory.imports import seconds
from agents.memory.progress import caught_up
from agents.services.replay import fits, headers, line, paced, selected
from bus.connection import Bus, connect
from bus.stream import Stored
from bus.topology import EPISODES
from runtime.cli import NatsOption, command, err, out, run_async, settings_of
from runtime.composition import bus_settings
from runtime.local_memory import remembering
from runtime.records import restore
from runtime.settings import Settings
from runtime.turns import rerun as repeating
from schemas.codec import field_of
from schemas.errors import InvalidInput
from schemas.services import ReplayRequest, Selection

FLUSHED = 128
"""Messages between two waits for the broker to take what was published."""

Tick = Callable[[Stored], None]
Source = AsyncGenerator[Stored, None]


def hang(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(replay)


@command
def replay(
    turn: Annotated[str | None, typer.Argument(help="One turn: its recorded inputs. None: the record.")] = None,
    again: Annotated[bool, typer.Option("--again", help="Run the turn once more and compare.")] = False,
    since: Annotated[str | None, typer.Option(help="Stored at or after: Unix seconds or a date.")] = None,
    until: Annotated[str | None, typer.Option(help="Stored at or before.")] = None,
    from_seq: Annotated[int | None, typer.Option("--from", help="Sequence in the record to begin with.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    session: Annotated[str | None, typer.Option(help="Only this session's.")] = None,
    file: Annotated[Path | None, typer.Option(help="Replay this JSONL instead of the record; - is stdin.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write JSONL here, not to stdout.")] = None,
    to: Annotated[str | None, typer.Option(help="Publish on this subject instead.")] = None,
    into_record: Annotated[bool, typer.Option("--into-record", help="Record them in this runtime instead.")] = False,
    speed: Annotated[str, typer.Option(help="'full', or 'recorded': with the pauses there were.")] = "full",
    nats: NatsOption = None,
) -> None:
    """Replay the record as JSONL, onto a subject, or into the record of another runtime."""
    settings = settings_of(nats=nats, log_level="warning")
    if turn is not None:
        run_async(_on_bus, settings, lambda bus: _repeat(bus, turn) if again else _inputs(bus, turn))
        return
    if again:
        raise InvalidInput("--again repeats one turn: give its id.", param="turn")
    if into_record and file is None:
        raise InvalidInput("--into-record needs --file: the record cannot be replayed into itself.", param="file")
    wanted = _request(
        to or "stdout",
        speed,
        since=None if since is None else seconds(since, param="since"),
        until=None if until is None else seconds(until, param="until"),
        from_seq=from_seq,
        tenant=tenant,
        session_id=session,
    )
    if to is not None and to.split(".")[0] == settings.prefix:
        raise InvalidInput(f"'{to}' is the runtime's own: give a subject outside '{settings.prefix}'.", param="to")

    async def replayed(bus: Bus) -> None:
        with _bar(await _end(bus, file)) as tick:
            source = paced(_source(bus, file, wanted.selection), wanted.speed)
            if into_record:
                await _into_record(bus, source, tick)
            elif to is not None:
                await _publish(bus, source, to, tick)
            else:
                with contextlib.suppress(BrokenPipeError):  # whoever reads has seen enough
                    await _write(source, output, tick)

    run_async(_remembering if into_record else _on_bus, settings, replayed)


async def _on_bus(settings: Settings, verb: Callable[[Bus], Awaitable[None]]) -> None:
    async with connect(bus_settings(settings), name="kiki-replay") as bus:
        await bus.reconcile()
        await verb(bus)


async def _remembering(settings: Settings, verb: Callable[[Bus], Awaitable[None]]) -> None:
    async with remembering(settings) as bus:
        await verb(bus)


def _request(to: str, speed: str, **selection: object) -> ReplayRequest:
    try:
        return msgspec.convert({"to": to, "speed": speed, "selection": selection}, ReplayRequest)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"cannot replay: {error}.", param=field_of(str(error))) from error


async def _source(bus: Bus, file: Path | None, wanted: Selection) -> Source:
    messages = selected(bus, wanted) if file is None else restore.told(bus, _text(file).splitlines(), source=str(file))
    async with aclosing(messages):
        async for stored in messages:
            if file is None or fits(wanted, stored):
                yield stored


async def _write(source: Source, output: Path | None, tick: Tick) -> None:
    with _sink(output) as sink:
        async with aclosing(source):
            async for stored in source:
                sink.write(line(stored))
                tick(stored)


async def _publish(bus: Bus, source: Source, subject: str, tick: Tick) -> None:
    sent = 0
    async with aclosing(source):
        async for stored in source:
            await bus.client.publish(subject, stored.data, headers=headers(stored))
            sent += 1
            tick(stored)
            if sent % FLUSHED == 0:
                await bus.client.flush()
    await bus.client.flush()
    out.print(f"{sent} messages sent to {subject}", highlight=False)


async def _into_record(bus: Bus, source: Source, tick: Tick) -> None:
    new = known = 0
    async with aclosing(source):
        async for stored in source:
            fresh = await restore.restore(bus, stored)
            new, known = new + fresh, known + (not fresh)
            tick(stored)
    await caught_up(bus, (await bus.js.stream_info(EPISODES)).state.last_seq)
    out.print(f"{new} events recorded, {known} were there before", highlight=False)


async def _inputs(bus: Bus, turn: str) -> None:
    """What the turn was given, as it was recorded, and what it answered."""
    inputs, outcome = await repeating.recorded(bus, turn)
    sampling = inputs.query.sampling
    table = Table(box=None, show_header=False, pad_edge=False)
    rows = (
        ("tenant, session", f"{inputs.tenant}, {inputs.session_id}"),
        ("asked", inputs.query.text),
        ("seed", f"{sampling.seed}, temperature {sampling.temperature:g}, at most {sampling.max_tokens} tokens"),
        ("plan", f"{inputs.route.plan.level}, {inputs.route.plan.candidates} candidates"),
        ("adapters", "\n".join(f"{use.name} {use.weight:g} {use.sha256}" for use in inputs.route.adapters) or "none"),
        ("advisories", "\n".join(f"{one.source} {one.payload}" for one in inputs.route.advisories) or "none"),
        ("recalled", "\n".join(f"{hit.episode_id}  {hit.question}" for hit in inputs.recall.hits) or "none"),
        ("model", outcome.model_digest),
        ("answered", outcome.answer),
        *(("lacking", one) for one in inputs.lacking),
    )
    for name, value in rows:
        table.add_row(name, Text(value))
    out.print(table)


async def _repeat(bus: Bus, turn: str) -> None:
    with err.status("running the turn again"):
        found = await repeating.run_again(bus, turn)
    if not found.differences:
        out.print(f"the same again, word for word: {found.again.answer}", markup=False, highlight=False)
        return
    table = Table("what", "recorded", "again", box=None)
    for one in found.differences:
        table.add_row(one.what, Text(one.recorded), Text(one.again))
    out.print(table)
    for reason in found.reasons:
        out.print(f"- {reason}", markup=False, highlight=False)


async def _end(bus: Bus, file: Path | None) -> int | None:
    """The last sequence that will be replayed, for the progress bar; None when nobody knows."""
    return None if file is not None else int((await bus.js.stream_info(EPISODES)).state.last_seq)


@contextlib.contextmanager
def _bar(end: int | None) -> Iterator[Tick]:
    """Moves with the sequence, because a selection's length is not known before it was read."""
    columns = (TextColumn("replaying"), BarColumn(), TextColumn("{task.completed}"), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task("replaying", total=end)
        yield lambda stored: progress.update(task, completed=stored.seq)


@contextlib.contextmanager
def _sink(output: Path | None) -> Iterator[IO[bytes]]:
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.flush()
        return
    try:
        with output.open("wb") as opened:
            yield opened
    except OSError as error:
        raise InvalidInput(f"cannot write {output}: {error.strerror}.", param="output") from error


def _text(file: Path) -> str:
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"cannot read {file}: {error}.", param="file") from error
