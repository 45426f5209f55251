"""``/health`` (is the process well), ``/ready`` (can a turn be answered) and ``/status`` (for life-core)."""

from typing import Any

import httpx
import nats.errors
from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse

from bus import metrics
from bus.agent import Report, reports
from runtime.facade.dependencies import Facade, Parts, admin_only
from schemas.errors import Unavailable

router = APIRouter()


@router.get("/health")
async def health(parts: Parts) -> JSONResponse:
    """Alive; the body says what is around. Always 200: a restart of this process mends nothing else."""
    connected = parts.bus.client.is_connected
    agents = await agent_reports(parts)
    return JSONResponse(
        {
            "status": "ok" if connected else "degraded",
            "broker": {"connected": connected, "sync_interval": await _sync_interval(parts)},
            "agents": [_agent(report) for report in agents],
            "turns_in_flight": parts.turns.in_flight,
        }
    )


@router.get("/ready")
async def ready(parts: Parts) -> JSONResponse:
    """200 once every agent takes work (the worker: once it has decoded a token).

    Raises:
        Unavailable: something is missing; the message lists it.
    """
    if not parts.bus.client.is_connected:
        raise Unavailable("not ready: the broker is away.")
    if parts.turns.stopping:
        raise Unavailable("not ready: the facade is stopping.")
    found = await agent_reports(parts)
    missing = [why for name in parts.settings.expected_agents if (why := _missing(name, found))]
    if missing:
        raise Unavailable(f"not ready: {'; '.join(missing)}.")
    return JSONResponse({"status": "ready", "agents": [_agent(report) for report in found]})


@router.get("/status", dependencies=[Depends(admin_only)])
async def status(parts: Parts) -> JSONResponse:
    """What life-core reads: the active adapter, the last swap, and whether each alias can be asked."""
    found = await agent_reports(parts)
    able = not [name for name in parts.settings.expected_agents if _missing(name, found)]
    worker = next((one.status for one in found if one.status.agent == "inference"), None)
    return JSONResponse(
        {
            "active_lora": (worker.info.get("adapters") or None) if worker else None,
            "last_swap_ms": worker.gauges.get("last_swap_ms") if worker else None,
            "models": [{"alias": name, "status": "ready" if able else "unavailable"} for name in parts.aliases],
            "agents": [_agent(report) for report in found],
        }
    )


async def agent_reports(parts: Facade) -> list[Report]:
    """What the agents say of themselves; nothing while the broker is away."""
    if not parts.bus.client.is_connected:
        return []
    try:
        found = await reports(parts.bus, expected=parts.settings.expected_agents)
    except nats.errors.Error as error:
        metrics.degraded("facade.reports", repr(error))
        return []
    return sorted(found, key=lambda report: (report.status.agent, report.pid))


def _missing(name: str, found: list[Report]) -> str:
    """Why the agent cannot take work; empty when one instance can."""
    mine = [report.status for report in found if report.status.agent == name]
    if any(one.ready for one in mine):
        return ""
    return f"{name} ({mine[0].detail or 'not ready'})" if mine else f"{name} (does not answer)"


def _agent(report: Report) -> dict[str, Any]:
    said = report.status
    return {"agent": said.agent, "pid": report.pid, "ready": said.ready, "detail": said.detail}


async def _sync_interval(parts: Facade) -> str | None:
    """The broker's own word on how often it syncs to disk; None when it cannot be asked."""
    if parts.settings.monitor_url is None:
        return None
    try:
        async with httpx.AsyncClient(timeout=1.0) as client:
            found = (await client.get(f"{parts.settings.monitor_url}/varz")).json()
    except (httpx.HTTPError, ValueError) as error:
        metrics.degraded("facade.varz", repr(error))
        return None
    config = found.get("jetstream", {}).get("config", {})
    if config.get("sync_always"):
        return "always"
    return f"{config['sync_interval'] / 1e9:g}s" if "sync_interval" in config else None
