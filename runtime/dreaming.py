"""The steps of ``kiki dream run``, by requests over the bus: fetch records, run an episode, swap weights, mark."""

import anyio

from bus.connection import Bus
from schemas.calls import DREAM_FETCH, DREAM_REQUEST, DREAM_STATUS, DREAM_SWAP, SERVICES_MARK
from schemas.consolidation import SwapReply, SwapRequest
from schemas.dream import (
    BetaReply,
    BetaRequest,
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
"""Seconds that a swap may take; the retained questions are answered within it."""

POLL = 0.25
"""Seconds between two questions for an episode's status."""


async def fetch_records(bus: Bus, service: str, limit: int) -> BetaReply:
    """The oldest records that the service has not consumed."""
    return await bus.request(DREAM_FETCH, BetaRequest(name=service, limit=limit), timeout=TIMEOUT)


async def run_episode(bus: Bus, profile: ProfileName, episode: DreamEpisode) -> DreamStatus:
    """Queue an episode, wait until it was executed, and return its entry in the dream log.

    Raises:
        KikiError: the episode is refused, was aborted, or is no longer known.
    """
    await bus.request(DREAM_REQUEST, DreamRequest(profile=profile, episode=episode), timeout=TIMEOUT)
    status_request = DreamStatusRequest(episode_id=episode.episode_id)
    while (status := await bus.request(DREAM_STATUS, status_request, timeout=TIMEOUT)).state == "waiting":
        await anyio.sleep(POLL)
    if status.state != "done":
        raise KikiError(
            status.message or f"the dream agent does not know episode '{episode.episode_id}' any more",
            code=status.code,
            param=status.param,
        )
    return status


async def swap_weights(bus: Bus, status: DreamStatus, *, other_adapters: tuple[str, ...] = ()) -> SwapReply:
    """Have answers use the weights that an episode proposed.

    Raises:
        KikiError: the episode proposed no weights, or an invariant of the swap does not hold.
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
    return await bus.request(DREAM_SWAP, request, timeout=SWAP_TIMEOUT)


async def mark_tombstones(bus: Bus, service: str, ids: tuple[int, ...]) -> MarkReply:
    """Mark tombstones before which no record waits: there is nothing to learn from them."""
    request = MarkRequest(name=service, ids=ids, de_id=f"tombstones-{ids[0]}")
    return await bus.request(SERVICES_MARK, request, timeout=TIMEOUT)


async def mark_records(bus: Bus, service: str, status: DreamStatus, *, tombstones: tuple[int, ...] = ()) -> MarkReply:
    """Mark the records that an episode learned as consumed by it, and the tombstones that came with them."""
    learned_ids = status.report.record_ids if status.report is not None else ()
    request = MarkRequest(name=service, ids=tuple(sorted({*learned_ids, *tombstones})), de_id=status.episode_id)
    return await bus.request(SERVICES_MARK, request, timeout=TIMEOUT)
