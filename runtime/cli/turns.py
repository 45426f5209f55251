"""``kiki ask | chat | route | trace``: a turn, a conversation, a classification, and what happened in a turn."""

import json
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import anyio
import httpx
import typer
from rich.text import Text

from bus.connection import Bus, connect
from bus.turns.events import StoredEvent, read_turn_events
from runtime.agents import turn_stages
from runtime.cli import NatsOption, command, out, read_text, run_async, settings_of
from runtime.composition import bus_settings
from runtime.limits import MOST_SECONDS
from runtime.settings import Settings
from runtime.terminal import write_json_line
from runtime.turns.deliberation_tables import draw_bias_check, draw_deliberation
from runtime.turns.waterfall import draw_waterfall, waterfall
from schemas.calls import ROUTE
from schemas.chat import last_user_text
from schemas.embedder import MAX_EMBED_TEXTS
from schemas.envelope import PERSON
from schemas.errors import InvalidInput, KikiError, Unavailable
from schemas.events import ENDS, AnswerReady, EpisodeRecorded, NegotiateDone
from schemas.router import RoutedPrompt, RouteRequest

EPISODE_SECONDS = 3.0
"""How long the waterfall waits for the episode, which is written after the answer."""

STAGE_COMMENT = ": stage "
"""How the facade's line begins that a stage of a full turn has ended: its name and its milliseconds follow."""

ROUTE_BATCH = min(64, MAX_EMBED_TEXTS)


def add_verbs(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command()(ask)
    app.command()(chat)
    app.command()(route)
    app.command()(trace)


UserOption = Annotated[str, typer.Option(help="Whose memory; by default that of this machine's person.")]
ModelOption = Annotated[str, typer.Option("--model", help="One of the ids of GET /v1/models.")]
SessionOption = Annotated[str | None, typer.Option("--session", help="Go on with this session, or begin it.")]


@command
def ask(
    question: Annotated[str, typer.Argument(help="What to ask.")],
    model: ModelOption = "micro-kiki",
    session: SessionOption = None,
    user: UserOption = PERSON,
    show_trace: Annotated[bool, typer.Option("--trace", help="Show the turn's waterfall, too.")] = False,
) -> None:
    """Ask one question and print the answer as it comes; on a terminal, what a full turn waits for until then."""
    settings = settings_of()

    async def ask_and_trace() -> None:
        turn_id = await ask_and_print(settings, question, model=model, session=session, user=user)
        if show_trace:
            out.print()
            async with connect(bus_settings(settings), name="kiki-ask") as bus:
                await show_turn(bus, turn_id, wait_for_episode=True)

    run_async(ask_and_trace)


@command
def chat(model: ModelOption = "micro-kiki-fast", session: SessionOption = None, user: UserOption = PERSON) -> None:
    """Talk; an empty line or Ctrl-D ends it. With --session the memory brings what was said before."""
    settings = settings_of()
    history = "none" if session is None else "session"
    session_id = session or uuid.uuid4().hex
    messages: list[dict[str, str]] = []
    while True:
        try:
            line = out.input("[bold]> [/bold]").strip()
        except (EOFError, KeyboardInterrupt):
            line = ""
        if not line:
            return
        messages.append({"role": "user", "content": line})
        try:
            text, _ = run_async(_print_answer, settings, messages, model, session_id, history, user)
        except KikiError as error:
            out.print(error.message, style="red", markup=False)
            messages.pop()
            continue
        if history == "session":
            messages.clear()
        else:
            messages.append({"role": "assistant", "content": text})


@command
def route(
    prompt: Annotated[str | None, typer.Argument(help="One prompt; or give --file.")] = None,
    file: Annotated[
        Path | None,
        typer.Option(help='JSONL of {"prompt": ...} or {"messages": [...]} lines; - reads standard input.'),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON line a prompt, in order.")] = False,
    nats: NatsOption = None,
) -> None:
    """Say which domains prompts, or conversations' last messages, belong to. No domains: the base model answers."""
    settings = settings_of(nats=nats)
    lines = [RouteRequest(prompts=(prompt,))] if prompt is not None else _read_prompts(file)
    texts = [last_user_text(line.messages) if line.messages else line.prompts[0] for line in lines]
    for text, result in zip(texts, run_async(_route_lines, settings, lines), strict=True):
        if as_json:
            fields = [{"name": domain.name, "niche": domain.niche, "score": domain.score} for domain in result.domains]
            write_json_line(json.dumps({"prompt": text, "domains": fields}, ensure_ascii=False))
        else:
            names = ", ".join(f"{domain.name} {domain.score:.2f}" for domain in result.domains) or "base"
            out.print(Text.assemble((names, "bold"), f"  {text}"))


@command
def trace(
    turn_id: Annotated[str, typer.Argument(help="The x-turn-id header of an answer.")],
    as_json: Annotated[bool, typer.Option("--json", help="The turn's events, one JSON line each.")] = False,
    nats: NatsOption = None,
) -> None:
    """Draw a turn's waterfall and what each stage decided."""
    settings = settings_of(nats=nats)

    async def print_trace() -> None:
        async with connect(bus_settings(settings), name="kiki-trace") as bus:
            if as_json:
                from schemas.codec import encode

                for entry in await read_turn_events(bus, turn_id):
                    write_json_line(f'{{"subject":"{entry.event.subject}","event":{encode(entry.event).decode()}}}')
            else:
                await show_turn(bus, turn_id)

    run_async(print_trace)


async def show_turn(bus: Bus, turn_id: str, *, wait_for_episode: bool = False) -> None:
    """Print a turn's waterfall and decisions; ``wait_for_episode`` waits until its episode is written first."""
    entries = await read_turn_events(bus, turn_id)
    if wait_for_episode:
        with anyio.move_on_after(EPISODE_SECONDS):
            while _awaits_episode(entries):
                await anyio.sleep(0.05)
                entries = await read_turn_events(bus, turn_id)
    picture = waterfall(entries)
    out.print(draw_waterfall(picture, columns=out.width))
    decision = next((entry.event for entry in reversed(entries) if isinstance(entry.event, NegotiateDone)), None)
    if (
        decision is not None
        and (deliberation_view := draw_deliberation(decision.inference, decision.negotiation)) is not None
    ):
        out.print(deliberation_view)
    answer = next((entry.event for entry in entries if isinstance(entry.event, AnswerReady)), None)
    if answer is not None and (bias_view := draw_bias_check(answer.bias)) is not None:
        out.print(bias_view)
    seen = {row.stage for row in picture.rows}
    has_ended = any(isinstance(entry.event, ENDS) for entry in entries)
    is_recorded = answer.is_recorded if answer is not None else not has_ended
    expected = [stage.name for stage in turn_stages() if stage.position != "after" or is_recorded]
    if missing := [name for name in expected if name not in seen]:
        out.print(f"not seen: {', '.join(missing)}", style="dim")


def _awaits_episode(entries: list[StoredEvent]) -> bool:
    is_recorded = any(isinstance(entry.event, AnswerReady) and entry.event.is_recorded for entry in entries)
    return is_recorded and not any(isinstance(entry.event, EpisodeRecorded) for entry in entries)


async def ask_and_print(
    settings: Settings, question: str, *, model: str = "micro-kiki", session: str | None = None, user: str = PERSON
) -> str:
    """Ask over HTTP, in a session with its history; print the answer as it comes, and give the turn id."""
    history = "none" if session is None else "session"
    messages = [{"role": "user", "content": question}]
    _, turn_id = await _print_answer(settings, messages, model, session, history, user)
    return turn_id


async def _print_answer(
    settings: Settings, messages: list[dict[str, str]], model: str, session: str | None, history: str, user: str
) -> tuple[str, str]:
    """Ask over HTTP and print the answer as it comes. Returns its text and the turn id."""
    url = f"http://{settings.host}:{settings.port}/v1/chat/completions"
    headers = {"X-User-Id": user} | ({"X-Session-Id": session} if session else {})
    if settings.api_keys:
        headers["Authorization"] = f"Bearer {next(iter(settings.api_keys))}"
    body = {"model": model, "messages": messages, "stream": True, "kiki": {"history": history, "progress": True}}
    timeout = httpx.Timeout(max(settings.turn_timeout, MOST_SECONDS) + 5, connect=5)
    try:
        async with (
            httpx.AsyncClient(timeout=timeout) as client,
            client.stream("POST", url, json=body, headers=headers) as response,
        ):
            if response.status_code != 200:
                await response.aread()
                raise _refusal(response.json())
            text = "".join([piece async for piece in _print_pieces(response)])
            return text, response.headers["x-turn-id"]
    except httpx.ConnectError as error:
        raise Unavailable(f"nothing serves on {url}: start it with 'kiki up'.") from error
    except httpx.HTTPError as error:
        raise Unavailable(f"the connection to {url} broke: {str(error) or type(error).__name__}.") from error


async def _print_pieces(response: httpx.Response) -> AsyncIterator[str]:
    """Print each piece of a streamed reply as it comes. Until the first, a terminal shows what the turn waits for."""
    ended: dict[str, float] = {}
    with out.status(_describe_progress(ended)) as status:
        async for line in response.aiter_lines():
            if line.startswith(STAGE_COMMENT):
                stage, milliseconds, _ = line.removeprefix(STAGE_COMMENT).split()
                ended[stage] = float(milliseconds) / 1000
                status.update(_describe_progress(ended))
            for piece in _read_content(line):
                status.stop()
                out.out(piece, end="", highlight=False)
                yield piece
    out.print()


def _read_content(line: str) -> Iterator[str]:
    """The text in one line of a streamed reply.

    Raises:
        KikiError: the line says that the turn failed.
    """
    if not line.startswith("data: ") or line == "data: [DONE]":
        return
    chunk = json.loads(line.removeprefix("data: "))
    if "error" in chunk:
        raise _refusal(chunk)
    for choice in chunk["choices"]:
        if piece := choice["delta"].get("content"):
            yield piece


def _describe_progress(ended: Mapping[str, float]) -> str:
    """What a turn waits for, after the seconds of the stages that have ended; only full turns report these."""
    if not ended:
        return "asking"
    awaited = [stage.name for stage in turn_stages() if stage.position == "awaited" and stage.name not in ended]
    seconds = ", ".join(f"{stage} {duration:.1f} s" for stage, duration in ended.items())
    return f"waiting for {awaited[0] if awaited else 'the answer'} ({seconds})"


def _refusal(body: dict[str, Any]) -> KikiError:
    error = body.get("error", {})
    return KikiError(error.get("message", "the facade refused"), code=error.get("code") or "internal_error")


def _read_prompts(file: Path | None) -> list[RouteRequest]:
    """The prompts and conversations of a file, each as a request of its own."""
    if file is None:
        raise InvalidInput("give a prompt, or --file with JSONL lines.", param="file")
    numbered_lines = [(number, line) for number, line in enumerate(read_text(file).splitlines(), 1) if line.strip()]
    return [_read_line(line, f"{file}, line {number}") for number, line in numbered_lines]


def _read_line(line: str, where: str) -> RouteRequest:
    import msgspec

    from runtime.facade.chat.messages import parse_messages
    from runtime.facade.routes.route import RouteBody

    try:
        body = msgspec.json.decode(line, type=RouteBody)
        text = body.prompt if body.query is None else body.query
        if (text is None) == (body.messages is None):
            raise InvalidInput('expected either {"prompt": "..."} or {"messages": [...]}', param="prompt")
        if text is not None:
            return RouteRequest(prompts=(text,))
        return RouteRequest(messages=parse_messages(body.messages or []))
    except (msgspec.DecodeError, KikiError) as error:
        message = str(error).rstrip(".")
        raise InvalidInput(f"{where}: {message}.", param=getattr(error, "param", None) or "prompt") from error


def _join_prompts(lines: list[RouteRequest]) -> list[RouteRequest]:
    """The same in order, with up to :data:`ROUTE_BATCH` prompts in a row as one request."""
    requests: list[RouteRequest] = []
    for line in lines:
        if line.prompts and requests and requests[-1].prompts and len(requests[-1].prompts) < ROUTE_BATCH:
            requests[-1] = RouteRequest(prompts=(*requests[-1].prompts, *line.prompts))
        else:
            requests.append(line)
    return requests


async def _route_lines(settings: Settings, lines: list[RouteRequest]) -> list[RoutedPrompt]:
    """Route with the running router, or with one that is loaded in this process when none answers."""
    requests = _join_prompts(lines)
    results: list[RoutedPrompt] = []
    try:
        async with connect(bus_settings(settings), name="kiki-route") as bus:
            for request in requests:
                reply = await bus.request(ROUTE, request, timeout=60.0)
                results.extend(reply.results)
            return results
    except Unavailable:
        return await _route_here(settings, requests)


async def _route_here(settings: Settings, requests: list[RouteRequest]) -> list[RoutedPrompt]:
    from runtime.local_router import load_router

    results: list[RoutedPrompt] = []
    async with load_router(settings) as router:
        for request in requests:
            results.extend((await router.route(request)).results)
    return results
