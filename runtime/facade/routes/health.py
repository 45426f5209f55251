"""``/health`` (is the process well), ``/ready`` (can a turn be answered) and ``/status`` (for life-core)."""

from typing import Any

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse

from bus import metrics
from bus.agent import Report, gather_reports
from bus.broker import read_sync_interval
from bus.errors import BrokerUnavailable
from bus.stream import measure_stream
from bus.topology import TURNS
from runtime.facade.dependencies import Facade, Parts, require_admin_key
from schemas.errors import Unavailable

router = APIRouter()


@router.get("/health")
async def report_health(parts: Parts) -> JSONResponse:
    """The state of broker, agents and turns. Always 200: restarting a facade that answers would mend nothing."""
    connected = parts.bus.is_connected
    agents = await collect_agent_reports(parts)
    return JSONResponse(
        {
            "status": "ok" if connected else "degraded",
            "broker": {"connected": connected, "sync_interval": await _read_sync_interval(parts)},
            "agents": [_agent_body(report) for report in agents],
            "turns_in_flight": parts.turns.in_flight,
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
    try:
        await measure_stream(parts.bus, TURNS)
    except BrokerUnavailable as error:  # a cluster without quorum: the servers are there, and store nothing
        raise Unavailable(f"not ready: {error.message}") from error
    all_reports = await collect_agent_reports(parts)
    expected = parts.settings.expected_agents
    missing = [reason for name in expected if (reason := _describe_missing(name, all_reports))]
    if missing:
        raise Unavailable(f"not ready: {'; '.join(missing)}.")
    return JSONResponse({"status": "ready", "agents": [_agent_body(report) for report in all_reports]})


@router.get("/status", dependencies=[Depends(require_admin_key)])
async def report_status(parts: Parts) -> JSONResponse:
    """What life-core reads: the active adapter, the last swap, and whether each alias can be asked."""
    all_reports = await collect_agent_reports(parts)
    all_ready = not [name for name in parts.settings.expected_agents if _describe_missing(name, all_reports)]
    worker = next((report.status for report in all_reports if report.status.agent == "inference"), None)
    return JSONResponse(
        {
            "active_lora": (worker.info.get("adapters") or None) if worker else None,
            "last_swap_ms": worker.gauges.get("last_swap_ms") if worker else None,
            "models": [{"alias": name, "status": "ready" if all_ready else "unavailable"} for name in parts.models],
            "agents": [_agent_body(report) for report in all_reports],
        }
    )


async def collect_agent_reports(parts: Facade) -> list[Report]:
    """The reports of all agents, by name and process; empty while the broker is away."""
    if not parts.bus.is_connected:
        return []
    try:
        all_reports = await gather_reports(parts.bus, expected=parts.settings.expected_agents)
    except Unavailable as error:
        metrics.count_degraded("facade.reports", error.message)
        return []
    return sorted(all_reports, key=lambda report: (report.status.agent, report.pid))


def _describe_missing(name: str, all_reports: list[Report]) -> str:
    """Why the agent cannot take work; empty when one instance can."""
    instances = [report.status for report in all_reports if report.status.agent == name]
    if any(instance.ready for instance in instances):
        return ""
    return f"{name} ({instances[0].detail or 'not ready'})" if instances else f"{name} (does not answer)"


def _agent_body(report: Report) -> dict[str, Any]:
    status = report.status
    return {"agent": status.agent, "pid": report.pid, "ready": status.ready, "detail": status.detail}


async def _read_sync_interval(parts: Facade) -> str | None:
    """How often the broker says that it syncs to disk; None when it cannot be asked."""
    if parts.settings.monitor_url is None:
        return None
    try:
        return await read_sync_interval(parts.settings.monitor_url)
    except Unavailable as error:
        metrics.count_degraded("facade.varz", error.message)
        return None
