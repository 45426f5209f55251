"""``/health`` (is the process well), ``/ready`` (can a turn be answered) and ``/status`` (for life-core)."""

import time
from typing import Any

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse

from bus import metrics
from bus.agent import gather_reports
from bus.broker import read_sync_interval
from bus.consumers import read_consumers
from bus.topology import TURNS
from runtime.facade.dependencies import Facade, Parts, require_admin_key
from schemas.errors import Unavailable
from schemas.status import AgentReport, StatusReply

router = APIRouter()


@router.get("/health")
async def report_health(parts: Parts) -> JSONResponse:
    """Broker, agents, turns, memory and adapters. Always 200: restarting a facade that answers would mend nothing."""
    connected = parts.bus.is_connected
    agents = await collect_agent_reports(parts)
    return JSONResponse(
        {
            "status": "ok" if connected else "degraded",
            "broker": {"connected": connected, "sync_interval": await _read_sync_interval(parts)},
            "agents": [_agent_body(report) for report in agents],
            "turns_in_flight": parts.turns.in_flight,
            "uptime_seconds": round(time.monotonic() - parts.started_at, 1),
            "memory": _memory_body(agents),
            "adapters": _adapters_body([report.status for report in agents if report.status.agent == "inference"]),
        }
    )


@router.get("/ready")
async def report_readiness(parts: Parts) -> JSONResponse:
    """200 once every agent takes work (the worker: once it has decoded a token).

    Raises:
        Unavailable: something is missing; the message lists it.
    """
    if not parts.bus.is_connected:
        raise Unavailable("not ready: the broker is away.")
    if parts.turns.stopping:
        raise Unavailable("not ready: the facade is stopping.")
    if problem := await parts.turns.storage.describe_problem():
        raise Unavailable(f"not ready: the broker cannot store: {problem}.")
    all_reports = await collect_agent_reports(parts)
    if missing := await _find_missing(parts, all_reports):
        raise Unavailable(f"not ready: {'; '.join(missing.values())}.")
    return JSONResponse({"status": "ready", "agents": [_agent_body(report) for report in all_reports]})


@router.get("/status", dependencies=[Depends(require_admin_key)])
async def report_status(parts: Parts) -> JSONResponse:
    """What life-core reads: the active adapter, the last swap, and whether each alias can be asked."""
    all_reports = await collect_agent_reports(parts)
    all_ready = not await _find_missing(parts, all_reports)
    worker = next((report.status for report in all_reports if report.status.agent == "inference"), None)
    return JSONResponse(
        {
            "active_lora": (worker.info.get("adapters") or None) if worker else None,
            "last_swap_ms": worker.gauges.get("last_swap_ms") if worker else None,
            "models": [{"alias": name, "status": "ready" if all_ready else "unavailable"} for name in parts.models],
            "agents": [_agent_body(report) for report in all_reports],
        }
    )


async def collect_agent_reports(parts: Facade) -> list[AgentReport]:
    """The reports of all agents, by name and process; empty while the broker is away."""
    if not parts.bus.is_connected:
        return []
    try:
        all_reports = await gather_reports(parts.bus, expected=parts.settings.expected_agents)
    except Unavailable as error:
        metrics.count_degraded("facade.reports", error.message)
        return []
    return sorted(all_reports, key=lambda report: (report.status.agent, report.pid))


async def _find_missing(parts: Facade, all_reports: list[AgentReport]) -> dict[str, str]:
    """The expected agents that cannot take work, each with the reason. An external one that reports nothing can when it
    reads its stage."""
    expected = parts.settings.expected_agents
    missing = {name: reason for name in expected if (reason := _describe_missing(name, all_reports))}
    silent = set(missing) & set(parts.settings.external_agents) - {report.status.agent for report in all_reports}
    if silent and parts.bus.is_connected:
        read = {consumer.name for consumer in await read_consumers(parts.bus, TURNS) if consumer.is_read}
        missing = {name: reason for name, reason in missing.items() if name not in silent & read}
    return missing


def _describe_missing(name: str, all_reports: list[AgentReport]) -> str:
    """Why the agent cannot take work; empty when one instance can."""
    instances = [report.status for report in all_reports if report.status.agent == name]
    if any(instance.ready for instance in instances):
        return ""
    return f"{name} ({instances[0].detail or 'not ready'})" if instances else f"{name} (does not answer)"


def _agent_body(report: AgentReport) -> dict[str, Any]:
    status = report.status
    return {
        "agent": status.agent,
        "pid": report.pid,
        "ready": status.ready,
        "detail": status.detail,
        "resident_bytes": report.resident_bytes or None,
    }


def _memory_body(all_reports: list[AgentReport]) -> dict[str, int]:
    """Bytes in memory: of this process, and of the processes of all agents, each counted once."""
    processes = {(report.host, report.pid): report.resident_bytes for report in all_reports}
    return {"resident_bytes": metrics.read_resident_bytes(), "agents_resident_bytes": sum(processes.values())}


def _adapters_body(workers: list[StatusReply]) -> dict[str, Any] | None:
    """The adapters of the workers: how many the one with most has, which are in a model now, and what the gates say of
    them; None without workers.

    A count that no worker reports is None.
    """
    if not workers:
        return None

    def count_most(gauge: str) -> int | None:
        return max((int(worker.gauges[gauge]) for worker in workers if gauge in worker.gauges), default=None)

    def list_names(field: str) -> list[str]:
        return sorted({name for worker in workers for name in worker.info.get(field, "").split()})

    return {
        "registered": count_most("adapters_registered"),
        "resident": count_most("adapters_resident"),
        "resident_bytes": count_most("adapter_resident_bytes"),
        "active": list_names("adapters"),
        **{state: list_names(state) for state in ("ungated", "waiting", "refused")},
    }


async def _read_sync_interval(parts: Facade) -> str | None:
    """How often the broker says that it syncs to disk; None when it cannot be asked."""
    if (monitor := parts.turns.storage.monitor) is None:
        return None
    try:
        return await read_sync_interval(monitor)
    except Unavailable as error:
        metrics.count_degraded("facade.varz", error.message)
        return None
