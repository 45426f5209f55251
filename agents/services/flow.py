"""The requests of kiki-flow: episodes of a window of time, norms of the adapters, and recording its advice."""

import time
from contextlib import aclosing

from agents.services.replay import read_selection
from agents.services.stacks import Stacks
from bus import metrics
from bus.connection import Bus
from bus.errors import translate_errors
from bus.stream import StoredMessage, append
from bus.subjects import Subjects
from schemas.adapters import AdapterInfo, AdapterListRequest, AdapterRequest
from schemas.calls import ADAPTERS_CHECK, ADAPTERS_LS
from schemas.codec import decode, encode
from schemas.errors import InvalidEvent, InvalidInput, KikiError
from schemas.events import EpisodeRecorded
from schemas.flow import (
    AdapterNorm,
    AdvicePublished,
    FlowEpisode,
    FlowFetchReply,
    FlowFetchRequest,
    FlowPublishReply,
    FlowPublishRequest,
    FlowSnapshotReply,
    FlowSnapshotRequest,
)
from schemas.services import Selection

HOUR = 3600.0
READ_SECONDS = 60.0
"""Seconds that the worker may take to list the adapters, or to read one."""


async def fetch(bus: Bus, request: FlowFetchRequest, stacks: Stacks, *, most_bytes: int) -> FlowFetchReply:
    """A page of the episodes of the window, oldest first.

    Raises:
        Unavailable: the record cannot be read.
    """
    selection = Selection(
        since=time.time() - request.window_h * HOUR,
        from_seq=request.after + 1,
        tenant=request.tenant,
        user=request.user,
    )
    episodes: list[FlowEpisode] = []
    bytes_left = most_bytes
    async with aclosing(read_selection(bus, selection)) as messages:
        async for stored in messages:
            episode = _flow_episode(stored, stacks)
            if episode is None:
                continue
            bytes_left -= len(encode(episode))
            if episodes and (bytes_left < 0 or len(episodes) == request.limit):
                return FlowFetchReply(episodes=tuple(episodes), more=True)
            episodes.append(episode)
    return FlowFetchReply(episodes=tuple(episodes), more=False)


async def take_snapshot(bus: Bus, request: FlowSnapshotRequest, stacks: Stacks) -> FlowSnapshotReply:
    """Norms of all registered adapters.

    Raises:
        Unavailable: the worker is away.
        KikiError: the worker refuses to list the adapters.
    """
    listing = await bus.request(ADAPTERS_LS, AdapterListRequest(), timeout=READ_SECONDS)
    adapters = []
    for info in listing.adapters:
        details = await _read_adapter(bus, info.name) if request.read and info.norm is None else info
        adapters.append(
            AdapterNorm(name=details.name, stack=stacks.of(details.name), norm=details.norm, sha256=details.sha256)
        )
    norms = {adapter.name: adapter.norm for adapter in adapters if adapter.norm is not None}
    return FlowSnapshotReply(at=time.time(), adapters=tuple(adapters), stacks=stacks.norms(norms))


async def publish(bus: Bus, request: FlowPublishRequest, stacks: Stacks) -> FlowPublishReply:
    """Record advice as an event.

    Raises:
        InvalidInput: it holds neither a summary nor weights, or both, or weights that are all zero.
        Unavailable: the broker did not store it.
    """
    sent_weights = request.stack_weights
    if (sent_weights is None) == (request.state_summary is None):
        raise InvalidInput("give either 'state_summary' or 'stack_weights'.", param="stack_weights")
    named_weights = sent_weights if isinstance(sent_weights, dict) else {}
    weights = stacks.collect(sent_weights) if isinstance(sent_weights, dict) else sent_weights or ()
    if sent_weights is not None and not any((*named_weights.values(), *weights)):
        raise InvalidInput("the weights sum to nothing: at least one stack needs a weight.", param="stack_weights")
    unknown = tuple(name for name in named_weights if stacks.find(name) is None)
    if unknown:
        metrics.count_degraded("flow.stack", f"'{unknown[0]}' of {request.source} is none of the stacks")
    is_known = any(weights)
    advice = AdvicePublished(
        source=request.source,
        tau=request.tau,
        at=time.time(),
        state_summary=request.state_summary or {},
        stack_weights=weights if is_known else (),
        named_weights=named_weights,
        domains=stacks.spread(weights) if is_known else {},
    )
    subject = bus.subjects.stage(AdvicePublished.subject, request.source)
    with translate_errors("the advice was not recorded"):
        seq = await append(bus, subject, encode(advice))
    return FlowPublishReply(seq=seq, domains=advice.domains, unknown=unknown)


async def _read_adapter(bus: Bus, name: str) -> AdapterInfo:
    """The worker's information on an adapter; without a norm, and counted, when the worker cannot read it."""
    try:
        return await bus.request(ADAPTERS_CHECK, AdapterRequest(name=name), timeout=READ_SECONDS)
    except KikiError as error:
        if error.retryable:
            raise
        metrics.count_degraded("flow.adapter", f"'{name}' has no norm: {error.message}")
        return AdapterInfo(name=name)


def _flow_episode(stored: StoredMessage, stacks: Stacks) -> FlowEpisode | None:
    """The episode of a message; None for a tombstone and for a message that cannot be read."""
    if Subjects.kind(stored.subject) != EpisodeRecorded.subject:
        return None
    try:
        episode = decode(EpisodeRecorded, stored.data).episode
    except InvalidEvent as error:
        metrics.count_degraded("services.unreadable", f"record {stored.seq} is passed over: {error.message}")
        return None
    domains = {domain.name: domain.score for domain in episode.domains}
    weights = {use.name: use.weight for use in episode.adapters}
    return FlowEpisode(
        id=stored.seq,
        episode_id=episode.episode_id,
        timestamp=episode.created_at,
        tenant=episode.tenant,
        user=episode.user,
        session_id=episode.session_id,
        question=episode.question,
        answer=episode.answer,
        concepts=episode.concepts,
        saillance_score=episode.saillance_score,
        domains=domains,
        stacks=stacks.scores(domains | weights),
    )
