"""``kiki up`` and ``kiki run``: start the whole runtime, or some of its agents in this process."""

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import anyio
import structlog
import typer

from bus.agent import gather_reports
from bus.connection import Bus, connect
from runtime import advisors, composition, guests, models
from runtime.agents import FACADE, all_agents, own_memory_embedder
from runtime.cli import NatsOption, cancel_on_signal, command, err, out, run_async, settings_of
from runtime.settings import LAST_RESORT_MODEL, Settings, environment
from runtime.supervisor import Supervisor
from schemas.errors import SetupError

READY_SECONDS = 180.0
"""Longest wait for all agents; the first start on a slow machine loads two models."""


def add_verbs(app: typer.Typer) -> None:
    """Add the verbs."""
    app.command()(up)
    app.command(name="run")(run)


@command
def up(
    nats: NatsOption = None,
    adapters: Annotated[Path | None, typer.Option(help="Folder of LoRA adapters, one subfolder each.")] = None,
    model: Annotated[str | None, typer.Option(help="Name, Hugging Face id or path of the chat model.")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the HTTP facade.")] = None,
    nats_port: Annotated[int | None, typer.Option(help="Port of the embedded NATS server.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where broker, vectors, graph and logs live.")] = None,
    without: Annotated[list[str] | None, typer.Option(help="An agent that is not started; may be repeated.")] = None,
    ask: Annotated[str | None, typer.Option(help="Ask this once everything is ready, and show the turn.")] = None,
) -> None:
    """Start the broker, every agent and the facade; restart what dies; stop all of it on Ctrl-C."""
    settings = settings_of(
        nats=nats,
        adapters=adapters,
        model=model,
        port=port,
        nats_port=nats_port,
        data_dir=data_dir,
        without=without or None,
    )
    composition.check_settings(settings)
    _check_adapters(settings)
    run_async(_start_all, _fetch_models(settings), ask)


@command
def run(
    agents: Annotated[list[str], typer.Argument(help=f"{', '.join((*all_agents(), FACADE))}, package.module:Class")],
) -> None:
    """Run some agents in this process, against a broker that is there already: KIKI_NATS, or the data directory's.

    One that is not this runtime's own is named as package.module:Class, by its entry point in the group kiki.agents, or
    as the settings name it.
    """
    os.execv(sys.executable, [sys.executable, "-m", "runtime.child", *agents])


def _check_adapters(settings: Settings) -> None:
    if settings.adapters is not None and not settings.adapters.is_dir():
        raise SetupError(
            f"there is no adapters folder at {settings.adapters}: make it, or leave --adapters out.", param="adapters"
        )


def _fetch_models(settings: Settings) -> Settings:
    """Fetch missing models; returns the settings, with the last resort where the default model cannot be had."""
    code = _pull_missing(settings)
    reason = None if settings.is_model_chosen else models.find_failure(settings.model)
    if code and reason is not None:
        _warn_of_last_resort(settings.model, reason)
        adapters = None if settings.adapters == settings.default_adapters else settings.adapters
        settings = settings.model_copy(update={"model": LAST_RESORT_MODEL, "adapters": adapters})
        code = _pull_missing(settings)
    if code:
        raise typer.Exit(code)  # the child has printed the reason
    return settings


def _pull_missing(settings: Settings) -> int:
    """Fetch in a child process: the libraries that convert a model would stay in this one's memory. Its exit code."""
    own = own_memory_embedder(settings)
    names = (settings.model, settings.embedder, *(() if own is None else (own,)))
    missing = [name for name in names if models.find_ready(name) is None]
    if not missing:
        return 0
    arguments = [sys.executable, "-m", "runtime", "models", "pull", *missing]
    return subprocess.run(arguments, stdout=subprocess.DEVNULL, check=False).returncode


def _warn_of_last_resort(model: str, reason: str) -> None:
    structlog.get_logger("kiki").warning(
        "default model replaced", model=model, replacement=LAST_RESORT_MODEL, error=reason
    )
    err.print(
        f"\nWARNING: {model} cannot be had, so {LAST_RESORT_MODEL} answers in its place, and far worse. {reason} "
        "Mend it and start again; 'kiki models pull' tries it alone.\n",
        style="bold yellow",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


async def _start_all(settings: Settings, ask: str | None) -> None:
    supervisor = Supervisor(
        settings,
        names=(*guests.list_started(settings), *advisors.find_runnable(settings), FACADE),
        title="kiki up",
    )
    async with supervisor.running(), anyio.create_task_group() as tasks:
        tasks.start_soon(cancel_on_signal, tasks.cancel_scope)
        began = time.monotonic()
        async with connect(composition.bus_settings(supervisor.settings), name="kiki-up") as bus:
            await bus.outage.wait(bus.create_missing_streams)  # a cluster may have no quorum yet
            await wait_ready(bus, supervisor)
            out.print(f"ready in {time.monotonic() - began:.1f} s", style="bold green", highlight=False)
            if elsewhere := ", ".join(guests.list_external(supervisor.settings)):
                out.print(f"not started here, and expected on the bus: {elsewhere}", highlight=False)
        if ask is not None:
            await _ask(supervisor.settings, ask)
        _print_address(supervisor.settings)
        await anyio.sleep_forever()


async def wait_ready(bus: Bus, supervisor: Supervisor) -> None:
    """Wait until every agent takes work and the facade answers."""
    missing = agents = [name for name in supervisor.names if name != FACADE]
    with err.status("starting") as status, anyio.move_on_after(READY_SECONDS) as waiting:
        while missing:
            ready = {report.status.agent for report in await gather_reports(bus) if report.status.ready}
            missing = [name for name in agents if name not in ready]
            status.update(f"starting: waiting for {', '.join(missing)}")
        while FACADE in supervisor.names and not await _facade_answers(supervisor.settings):
            await anyio.sleep(0.1)
    if waiting.cancelled_caught:
        logs = ", ".join(dict.fromkeys(str(supervisor.log_path(name)) for name in missing or [FACADE]))
        raise SetupError(f"not ready after {READY_SECONDS:.0f} s; the logs say why: {logs}.")


async def _facade_answers(settings: Settings) -> bool:
    with contextlib.suppress(OSError):
        async with await anyio.connect_tcp(settings.host, settings.port):
            return True
    return False


async def _ask(settings: Settings, question: str) -> None:
    """Print the answer and the turn by ``kiki ask`` in a child process, whose libraries are gone when it ends."""
    out.print(f"\n> {question}", style="bold", markup=False, highlight=False)
    arguments = [sys.executable, "-m", "runtime", "ask", "--trace", "--", question]
    child = await anyio.run_process(
        arguments, stdout=None, stderr=subprocess.PIPE, check=False, env={**os.environ, **environment(settings)}
    )
    lines = child.stderr.decode(errors="replace").splitlines()
    if child.returncode:
        error = lines[-1].removeprefix("kiki: ") if lines else f"exit code {child.returncode}"
        structlog.get_logger("kiki").error("first question failed", error=error)


def _print_address(settings: Settings) -> None:
    url = f"http://{settings.host}:{settings.port}"
    out.print(f"\nserving on {url}  (Ctrl-C stops everything)", highlight=False)
    body = '{"model": "micro-kiki", "messages": [{"role": "user", "content": "What is the capital of France?"}]}'
    out.print(
        f"curl {url}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
