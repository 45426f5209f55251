"""``kiki memory search | import | export | forget | rebuild | verify | stats | sleep``: what the runtime remembers."""

import contextlib
import json
from collections.abc import Awaitable, Callable, Sequence
from datetime import tzinfo
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from agents.memory import imports
from agents.shared.times import find_zone, format_time, parse_end, parse_time
from bus.agent import gather_reports
from bus.connection import Bus
from runtime.agents import own_memory_embedder
from runtime.cli import NatsOption, command, err, out, read_text, run_async, say, settings_of
from runtime.cli.verification import print_verification, refuse_disagreement
from runtime.local_embedder import BATCH, Embed, open_embedder
from runtime.local_memory import EMBEDDER, open_memory
from runtime.records import transfer
from runtime.settings import Settings
from runtime.terminal import write_json_line
from schemas.calls import MEMORY_FORGET, MEMORY_REBUILD, MEMORY_SEARCH, MEMORY_SLEEP, MEMORY_STATS, MEMORY_VERIFY
from schemas.envelope import PERSON
from schemas.errors import InvalidInput, Unavailable
from schemas.findings import RecalledEpisode
from schemas.memory import (
    ForgetRequest,
    RebuildRequest,
    SearchRequest,
    SleepReply,
    SleepRequest,
    StatsRequest,
    VerifyRequest,
)
from schemas.upcast import KEYLESS_TENANT

app = typer.Typer(
    help="The episodic memory: search, import, export, forget, rebuild, verify, statistics, sleep.",
    no_args_is_help=True,
)

LONG_SECONDS = 3600.0
"""Seconds of a request that goes through the whole record."""

SEARCH_SECONDS = 30.0
WORKER = "inference"

OneTenantOption = Annotated[str | None, typer.Option("--tenant", help="Only this tenant's; without it everybody's.")]
OneUserOption = Annotated[
    str | None, typer.Option("--user", help="Only this user's of the tenant (of 'default' when none is named).")
]
TenantOption = Annotated[str, typer.Option(help="Whose memory: the tenant.")]
UserOption = Annotated[str, typer.Option(help="Whose memory: the user, by default this machine's person.")]
ZoneOption = Annotated[
    str | None, typer.Option(help="Zone of times that name none, like Europe/Paris; without it the machine's.")
]
Verb = Callable[[Bus], Awaitable[None]]


@app.command()
@command
def search(
    query: Annotated[str | None, typer.Argument(help="What to look for; or give --file.")] = None,
    file: Annotated[Path | None, typer.Option(help='JSONL of {"query": ...} lines; - reads standard input.')] = None,
    tenant: TenantOption = KEYLESS_TENANT,
    user: UserOption = PERSON,
    k: Annotated[int, typer.Option("--k", min=1, max=100, help="Hits at most.")] = 10,
    session: Annotated[str | None, typer.Option(help="Only this session.")] = None,
    as_of: Annotated[
        str | None, typer.Option(help="Only what was known then: a date (its end), a time or Unix seconds.")
    ] = None,
    zone: ZoneOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line a query, in order.")] = False,
    nats: NatsOption = None,
) -> None:
    """Find episodes, best first. Without a running runtime the memory is opened here."""
    settings = settings_of(nats=nats, log_level="warning")
    queries = [query] if query is not None else _read_queries(file)
    time_zone = find_zone(zone)
    until = None if as_of is None else parse_end(as_of, zone=time_zone, param="as_of")

    async def search_all(bus: Bus, embed: Embed) -> None:
        for at in range(0, len(queries), BATCH):
            batch = queries[at : at + BATCH]
            for text, vector in zip(batch, await embed(batch), strict=True):
                request = SearchRequest(
                    tenant=tenant, user=user, vector=vector, text=text, limit=k, session_id=session, as_of=until
                )
                reply = await bus.request(MEMORY_SEARCH, request, timeout=SEARCH_SECONDS)
                _print_hits(text, reply.hits, as_json, time_zone)

    run_async(_run_with_embedder, settings, search_all)


@app.command(name="import")
@command
def import_history(
    file: Annotated[Path, typer.Argument(help='JSONL of {"session", "role" or "speaker", "text", "timestamp", "id"}.')],
    tenant: TenantOption = KEYLESS_TENANT,
    user: UserOption = PERSON,
    zone: ZoneOption = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave lines out that are refused; say which.")] = False,
    nats: NatsOption = None,
) -> None:
    """Import a history into the record. Importing again adds only what is new; a file with a bad line adds nothing."""
    settings = settings_of(nats=nats, log_level="warning")
    history = imports.read_history(read_text(file), zone=find_zone(zone))
    if not skip_bad:
        imports.refuse(history.bad, source=str(file))

    async def import_file() -> None:
        async with open_memory(settings, say=say) as bus:
            plan = await transfer.plan_import(bus, history.entries, tenant=tenant, user=user)
            if not skip_bad:
                imports.refuse(plan.bad, source=str(file))
            if plan.new:
                async with open_embedder(settings, bus) as embed:
                    name = own_memory_embedder(settings) or settings.embedder
                    await _record_with_progress(bus, plan.new, embed, tenant, user, name)
        _print_import(history, plan)

    run_async(import_file)


@app.command()
@command
def export(tenant: TenantOption = KEYLESS_TENANT, user: UserOption = PERSON, nats: NatsOption = None) -> None:
    """Print the user's record as JSONL that 'kiki memory import' reads."""

    async def print_lines(bus: Bus) -> None:
        async with contextlib.aclosing(transfer.export_lines(bus, tenant=tenant, user=user)) as lines:
            with contextlib.suppress(BrokenPipeError):  # the reader closed the pipe
                async for line in lines:
                    write_json_line(line)

    _run_on_memory(print_lines, nats)


@app.command()
@command
def rebuild(tenant: OneTenantOption = None, user: OneUserOption = None, nats: NatsOption = None) -> None:
    """Make Atlas and Trace again from the record. The runtime keeps answering meanwhile."""

    async def rebuild_stores(bus: Bus) -> None:
        with err.status("projecting the record again"):
            request = RebuildRequest(tenant=_tenant_of(tenant, user), user=user)
            reply = await bus.request(MEMORY_REBUILD, request, timeout=LONG_SECONDS)
        out.print(f"{reply.episodes} episodes in {reply.seconds:.1f} s", highlight=False)

    _run_on_memory(rebuild_stores, nats, EMBEDDER)


@app.command()
@command
def verify(tenant: OneTenantOption = None, user: OneUserOption = None, nats: NatsOption = None) -> None:
    """Compare record, Atlas and Trace, texts and vectors too; exit 1 when they differ or the record lost entries."""

    async def verify_stores(bus: Bus) -> None:
        reply = await bus.request(
            MEMORY_VERIFY,
            VerifyRequest(tenant=_tenant_of(tenant, user), user=user),
            timeout=LONG_SECONDS,
        )
        print_verification(reply, settings_of(nats=nats, log_level="warning"))
        refuse_disagreement(reply)

    _run_on_memory(verify_stores, nats)


@app.command()
@command
def stats(tenant: OneTenantOption = None, user: OneUserOption = None, nats: NatsOption = None) -> None:
    """Print the episodes in each store; without a tenant also lag, recalls and hits, with one also its edges."""

    async def print_gauges(bus: Bus) -> None:
        whose = _tenant_of(tenant, user)
        gauges = await (_read_gauges(bus) if whose is None else _read_stats(bus, whose, user))
        table = Table("gauge", "value", box=None)
        for name, value in sorted(gauges.items()):
            table.add_row(name, f"{value:g}")
        out.print(table)

    _run_on_memory(print_gauges, nats)


@app.command()
@command
def sleep(
    tenant: OneTenantOption = None,
    user: OneUserOption = None,
    before: Annotated[
        str | None, typer.Option(help="What was recorded until then is old: Unix seconds or a date.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="New summaries at most.")] = 100,
    nats: NatsOption = None,
) -> None:
    """Summarise related old episodes. Nothing is dropped; sleeping again goes on where it stopped."""
    until = None if before is None else parse_time(before, param="before")

    async def sleep_once(bus: Bus) -> None:
        request = SleepRequest(tenant=_tenant_of(tenant, user), user=user, before=until, limit=limit)
        with err.status("asleep"):
            reply = await bus.request(MEMORY_SLEEP, request, timeout=LONG_SECONDS)
        _print_sleep(reply)

    _run_on_memory(sleep_once, nats, WORKER)


@app.command()
@command
def forget(
    session: Annotated[str | None, typer.Option(help="Only this session; without it all that is the user's.")] = None,
    tenant: TenantOption = KEYLESS_TENANT,
    user: UserOption = PERSON,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    nats: NatsOption = None,
) -> None:
    """Delete a session, or all of a user's memory, from the record and from every store."""
    what = f"session {session} of {user or 'nobody'}" if session else f"everything that is remembered of {user}"
    if not yes:
        typer.confirm(f"Delete {what}?", abort=True)

    async def forget_once(bus: Bus) -> None:
        request = ForgetRequest(tenant=tenant, user=user, session_id=session)
        reply = await bus.request(MEMORY_FORGET, request, timeout=LONG_SECONDS)
        out.print(f"{reply.episodes} episodes deleted", highlight=False)

    _run_on_memory(forget_once, nats)


def _tenant_of(tenant: str | None, user: str | None) -> str | None:
    """The tenant that is meant: a user's is the machine's own unless another one is named."""
    return KEYLESS_TENANT if tenant is None and user is not None else tenant


async def _record_with_progress(
    bus: Bus, entries: Sequence[imports.DatedLine], embed: Embed, tenant: str, user: str, embedder: str
) -> None:
    columns = (TextColumn("importing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task("importing", total=len(entries))
        await transfer.record_entries(
            bus,
            entries,
            embed,
            tenant=tenant,
            user=user,
            tick=lambda more: progress.advance(task, more),
            embedder=embedder,
        )


def _print_import(history: imports.History, plan: transfer.ImportPlan) -> None:
    for line in sorted((*history.bad, *plan.bad), key=lambda bad: bad.number):
        err.print(f"line {line.number} left out: {line.reason}", markup=False, highlight=False, soft_wrap=True)
    left_out = len(history.bad) + len(plan.bad)
    parts = (
        (True, f"{len(plan.new)} episodes imported"),
        (True, f"{plan.known} were there before"),
        (history.repeated, f"{history.repeated} repeated another line"),
        (plan.forgotten, f"{plan.forgotten} stay forgotten"),
        (left_out, f"{left_out} left out"),
    )
    out.print(", ".join(text for count, text in parts if count), highlight=False)


async def _read_gauges(bus: Bus) -> dict[str, float]:
    statuses = [
        report.status for report in await gather_reports(bus, expected=["memory"]) if report.status.agent == "memory"
    ]
    if not statuses:
        raise Unavailable("no memory agent answers: start it with 'kiki up' or 'kiki run memory'.")
    return statuses[0].gauges


async def _read_stats(bus: Bus, tenant: str, user: str | None) -> dict[str, float]:
    reply = await bus.request(MEMORY_STATS, StatsRequest(tenant=tenant, user=user), timeout=LONG_SECONDS)
    stores = {"atlas_episodes": reply.atlas_episodes, "trace_episodes": reply.trace_episodes}
    return {**stores, **{f"edges_{kind.lower()}": count for kind, count in reply.edges.items()}}


def _print_sleep(reply: SleepReply) -> None:
    for summary in reply.merged:
        line = Text.assemble((f"{len(summary.episodes)} episodes", "bold"), f" of {summary.user}: {summary.text}")
        out.print(line, soft_wrap=True)
    until = format_time(reply.before)
    out.print(f"{len(reply.merged)} summaries made, {reply.known} were there before (until {until})", highlight=False)
    if reply.left:
        out.print(f"{reply.left} are left to the next sleep: the limit was reached, or the model failed")
    if reply.held:
        out.print(f"{reply.held} old episodes were left alone: {reply.held_by} has not acknowledged them")


def _run_on_memory(verb: Verb, nats: str | None, *extra_agents: str) -> None:
    settings = settings_of(nats=nats, log_level="warning")

    async def connect_and_run() -> None:
        async with open_memory(settings, *extra_agents, say=say) as bus:
            await verb(bus)

    run_async(connect_and_run)


async def _run_with_embedder(settings: Settings, verb: Callable[[Bus, Embed], Awaitable[None]]) -> None:
    async with open_memory(settings, say=say) as bus, open_embedder(settings, bus) as embed:
        await verb(bus, embed)


def _print_hits(query: str, hits: tuple[RecalledEpisode, ...], as_json: bool, zone: tzinfo | None) -> None:
    if as_json:
        line = {"query": query, "hits": [_hit_fields(hit) for hit in hits]}
        write_json_line(json.dumps(line, ensure_ascii=False))
        return
    for hit in hits:
        when = format_time(hit.created_at, zone=zone)
        speaker = f"{hit.speaker}: " if hit.speaker else ""
        out.print(Text.assemble((f"{hit.score:.3f}", "bold"), f"  {when}  {speaker}{hit.question}"), soft_wrap=True)
        if hit.answer:
            out.print(Text(f"       {hit.answer}", style="dim"), soft_wrap=True)
    if not hits:
        out.print("nothing found")


def _hit_fields(hit: RecalledEpisode) -> dict[str, Any]:
    return {
        "id": hit.source_id or hit.episode_id,
        "score": hit.score,
        "episode_id": hit.episode_id,
        "session": hit.session_id,
        "speaker": hit.speaker,
        "text": hit.question,
        "answer": hit.answer,
        "timestamp": hit.created_at,
        "reasons": list(hit.reasons),
    }


def _read_queries(file: Path | None) -> list[str]:
    if file is None:
        raise InvalidInput("give a query, or --file with JSONL lines.", param="file")
    queries = []
    for number, line in enumerate(read_text(file).split("\n"), 1):
        if not line.strip():
            continue
        query: Any = None
        with contextlib.suppress(json.JSONDecodeError, KeyError, TypeError):
            query = json.loads(line)["query"]
        if not isinstance(query, str):
            raise InvalidInput(f'{file}, line {number}: expected {{"query": "..."}}.', param="query")
        queries.append(query)
    return queries
