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

from agents.memory.progress import wait_until_projected
from agents.services.replay import encode_line, fits, pace, read_selection, replay_headers
from agents.shared.times import parse_end, parse_time
from bus.connection import Bus, connect
from bus.stream import StoredMessage, measure_stream
from bus.subjects import Subjects
from bus.topology import EPISODES
from runtime.cli import NatsOption, command, err, out, read_text, run_async, say, settings_of
from runtime.composition import bus_settings
from runtime.local_memory import open_memory
from runtime.records import restore
from runtime.settings import Settings
from runtime.terminal import escape_controls
from runtime.turns.rerun import read_turn, run_again
from schemas.base import UNREADABLE
from schemas.codec import field_of
from schemas.errors import InvalidInput
from schemas.services import ReplayRequest, Selection

FLUSH_EVERY = 128
"""Messages between two waits for the broker to take what was published."""

Tick = Callable[[StoredMessage], None]
Source = AsyncGenerator[StoredMessage, None]


def add_verbs(app: typer.Typer) -> None:
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
    user: Annotated[str | None, typer.Option(help="Only this user's.")] = None,
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
        run_async(_run_on_bus, settings, lambda bus: _run_turn_again(bus, turn) if again else _print_inputs(bus, turn))
        return
    if again:
        raise InvalidInput("--again repeats one turn: give its id.", param="turn")
    if into_record and file is None:
        raise InvalidInput("--into-record needs --file: the record cannot be replayed into itself.", param="file")
    request = _parse_request(
        to or "stdout",
        speed,
        since=None if since is None else parse_time(since, param="since"),
        until=None if until is None else parse_end(until, param="until"),
        from_seq=from_seq,
        tenant=tenant,
        user=user,
        session_id=session,
    )
    if to is not None and Subjects(settings.prefix).owns(to):
        raise InvalidInput(
            f"'{to}' is one of the runtime's own subjects: give one outside '{settings.prefix}'.", param="to"
        )

    async def replay_messages(bus: Bus) -> None:
        with _progress_bar(await _last_sequence(bus, file)) as tick:
            source = pace(_read_source(bus, file, request.selection), request.speed)
            if into_record:
                await _restore_all(bus, source, tick)
            elif to is not None:
                await _publish(bus, source, to, tick)
            else:
                with contextlib.suppress(BrokenPipeError):  # the reader closed the pipe
                    await _write(source, output, tick)

    run_async(_run_on_memory if into_record else _run_on_bus, settings, replay_messages)


async def _run_on_bus(settings: Settings, verb: Callable[[Bus], Awaitable[None]]) -> None:
    async with connect(bus_settings(settings), name="kiki-replay") as bus:
        await bus.create_missing_streams()
        await verb(bus)


async def _run_on_memory(settings: Settings, verb: Callable[[Bus], Awaitable[None]]) -> None:
    async with open_memory(settings, say=say) as bus:
        await verb(bus)


def _parse_request(to: str, speed: str, **selection: object) -> ReplayRequest:
    try:
        return msgspec.convert({"to": to, "speed": speed, "selection": selection}, ReplayRequest)
    except msgspec.ValidationError as error:
        raise InvalidInput(f"cannot replay: {error}.", param=field_of(str(error))) from error


async def _read_source(bus: Bus, file: Path | None, selection: Selection) -> Source:
    messages = (
        read_selection(bus, selection)
        if file is None
        else restore.parse_lines(bus, read_text(file).split("\n"), source=str(file))
    )
    async with aclosing(messages):
        async for message in messages:
            if file is None or fits(selection, message):
                yield message


async def _write(source: Source, output: Path | None, tick: Tick) -> None:
    on_terminal = output is None and sys.stdout.isatty()  # elsewhere every event stays as it was recorded
    with _open_sink(output) as sink:
        async with aclosing(source):
            async for message in source:
                if _is_json(message.data):
                    line = encode_line(message)
                    sink.write(escape_controls(line.decode()).encode() if on_terminal else line)
                else:
                    err.print(f"record {message.seq} left out: it is no JSON", highlight=False)
                tick(message)


def _is_json(data: bytes) -> bool:
    with contextlib.suppress(*UNREADABLE):
        msgspec.json.decode(data, type=msgspec.Raw)
        return True
    return False


async def _publish(bus: Bus, source: Source, subject: str, tick: Tick) -> None:
    count = 0
    async with aclosing(source):
        async for message in source:
            await bus.send(subject, message.data, headers=replay_headers(message))
            count += 1
            tick(message)
            if count % FLUSH_EVERY == 0:
                await bus.flush()
    await bus.flush()
    out.print(f"{count} messages sent to {subject}", highlight=False)


async def _restore_all(bus: Bus, source: Source, tick: Tick) -> None:
    new = known = 0
    async with aclosing(source):
        async for message in source:
            fresh = await restore.restore(bus, message)
            new, known = new + fresh, known + (not fresh)
            tick(message)
    await wait_until_projected(bus)
    out.print(f"{new} events recorded, {known} were there before", highlight=False)


async def _print_inputs(bus: Bus, turn: str) -> None:
    """Print the turn's inputs, as they were recorded, and its answer."""
    inputs, outcome = await read_turn(bus, turn)
    sampling = inputs.query.sampling
    advisories = (f"{advisory.source} {advisory.payload}" for advisory in inputs.route.advisories)
    table = Table(box=None, show_header=False, pad_edge=False)
    rows = (
        ("tenant, user, session", f"{inputs.tenant}, {inputs.user}, {inputs.session_id}"),
        ("asked", inputs.query.text),
        ("seed", f"{sampling.seed}, temperature {sampling.temperature:g}, at most {sampling.max_tokens} tokens"),
        ("plan", f"{inputs.route.plan.level}, {inputs.route.plan.candidates} candidates"),
        ("adapters", "\n".join(f"{use.name} {use.weight:g} {use.sha256}" for use in inputs.route.adapters) or "none"),
        ("advisories", "\n".join(advisories) or "none"),
        ("recalled", "\n".join(f"{hit.episode_id}  {hit.question}" for hit in inputs.recall.hits) or "none"),
        ("model", outcome.model_digest),
        ("answered", outcome.answer),
        *(("lacking", note) for note in inputs.lacking),
    )
    for name, value in rows:
        table.add_row(name, Text(value))
    out.print(table)


async def _run_turn_again(bus: Bus, turn: str) -> None:
    with err.status("running the turn again"):
        rerun = await run_again(bus, turn)
    if not rerun.differences:
        out.print(f"the same again, word for word: {rerun.again.answer}", markup=False, highlight=False)
        return
    table = Table("what", "recorded", "again", box=None)
    for difference in rerun.differences:
        table.add_row(difference.part, Text(difference.recorded), Text(difference.again))
    out.print(table)
    for reason in rerun.reasons:
        out.print(f"- {reason}", markup=False, highlight=False)


async def _last_sequence(bus: Bus, file: Path | None) -> int | None:
    """The last sequence that will be replayed, for the progress bar; None for a file."""
    return None if file is not None else (await measure_stream(bus, EPISODES)).last_seq


@contextlib.contextmanager
def _progress_bar(end: int | None) -> Iterator[Tick]:
    """A bar that follows the sequence in the record: a selection's length is not known before it was read."""
    columns = (TextColumn("replaying"), BarColumn(), TextColumn("{task.completed}"), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task("replaying", total=end)
        yield lambda message: progress.update(task, completed=message.seq)


@contextlib.contextmanager
def _open_sink(output: Path | None) -> Iterator[IO[bytes]]:
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.flush()
        return
    try:
        with output.open("wb") as file:
            yield file
    except OSError as error:
        raise InvalidInput(f"cannot write {output}: {error.strerror}.", param="output") from error
