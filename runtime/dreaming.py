"""One consolidation from outside, as a person starts it: fetch, dream, swap, mark, over the bus only."""

import anyio

from bus.connection import Bus
from schemas.consolidation import SwapReply, SwapRequest
from schemas.dream import (
    BetaReply,
    BetaRequest,
    DreamAccepted,
    DreamEpisode,
    DreamRequest,
    DreamStatus,
    DreamStatusRequest,
    ProfileName,
)
from schemas.errors import KikiError
from schemas.services import MarkReply, MarkRequest

TIMEOUT = 30.0
SWAP_TIMEOUT = 900.0
POLL = 0.25


async def fetch_records(bus: Bus, service: str, limit: int) -> BetaReply:
    """The oldest records that the service has not consumed."""
    return await bus.request("dream.fetch", BetaRequest(name=service, limit=limit), BetaReply, timeout=TIMEOUT)


async def run_episode(bus: Bus, profile: ProfileName, episode: DreamEpisode) -> DreamStatus:
    """The log entry of an episode, which is queued first.

    Raises:
        KikiError: it is refused, or was aborted.
    """
    await bus.request("dream.request", DreamRequest(profile=profile, episode=episode), DreamAccepted, timeout=TIMEOUT)
    status_request = DreamStatusRequest(episode_id=episode.episode_id)
    while (
        status := await bus.request("dream.status", status_request, DreamStatus, timeout=TIMEOUT)
    ).state == "waiting":
        await anyio.sleep(POLL)
    if status.state != "done":
        raise KikiError(status.message or "the episode is gone", code=status.code, param=status.param)
    return status


async def swap_weights(bus: Bus, status: DreamStatus, *, other_adapters: tuple[str, ...] = ()) -> SwapReply:
    """Put the weights that an episode proposed before people.

    Raises:
        KikiError: it proposed none, or an invariant does not hold.
    """
    report = status.report
    if report is None or report.weight_delta is None:
        raise KikiError(f"episode '{status.episode_id}' proposed no weights.", code="invalid_request")
    delta = report.weight_delta
    request = SwapRequest(
        episode_id=report.episode_id,
        adapter=delta.adapter,
        sha256=delta.sha256,
        base_sha256=delta.base_sha256,
        others=other_adapters,
        attention_prior=report.attention_prior,
    )
    return await bus.request("dream.swap", request, SwapReply, timeout=SWAP_TIMEOUT)


async def mark_records(bus: Bus, service: str, status: DreamStatus) -> MarkReply:
    """Tell the record that an episode's records are consumed by it."""
    ids = status.report.record_ids if status.report is not None else ()
    request = MarkRequest(name=service, ids=ids, de_id=status.episode_id)
    return await bus.request("services.mark", request, MarkReply, timeout=TIMEOUT)
