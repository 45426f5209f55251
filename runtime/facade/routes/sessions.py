"""``/v1/sessions/{id}`` and ``/v1/episodes``: show, search and forget what the memory holds of the request's user."""

import re
from typing import Annotated, Any

from fastapi import APIRouter, Query
from fastapi.responses import JSONResponse

from agents.shared.times import parse_end
from runtime.facade.dependencies import Facade, Parts, WhoseMemory
from schemas.calls import EMBED, MEMORY_FORGET, MEMORY_SEARCH, MEMORY_SESSION
from schemas.embedder import EmbedRequest
from schemas.envelope import SESSION_PATTERN
from schemas.errors import InvalidInput
from schemas.findings import RecalledEpisode
from schemas.memory import ForgetRequest, SearchRequest, SessionRequest

router = APIRouter()
MAX_HITS = 100


@router.get("/v1/sessions/{session_id:path}")
async def show_session(session_id: str, parts: Parts, owner: WhoseMemory) -> JSONResponse:
    """A session's episodes in time; 404 when nothing is remembered of it."""
    request = SessionRequest(tenant=owner.tenant, user=owner.user, session_id=_check_session_id(session_id))
    timeout = parts.settings.memory_timeout
    reply = await parts.bus.request(MEMORY_SESSION, request, timeout=timeout)
    if not reply.episodes:
        raise InvalidInput(
            f"nothing is remembered of session '{session_id}'.", code="session_not_found", param="session_id"
        )
    episodes = [_episode_body(episode) for episode in reply.episodes]
    return JSONResponse({"object": "session", "id": session_id, "episodes": episodes})


@router.delete("/v1/sessions")
async def forget_user(parts: Parts, owner: WhoseMemory) -> JSONResponse:
    """Delete all that is remembered of the user whom the request names."""
    request = ForgetRequest(tenant=owner.tenant, user=owner.user)
    reply = await parts.bus.request(MEMORY_FORGET, request, timeout=parts.settings.forget_timeout)
    return JSONResponse({"object": "memory.deleted", "user": owner.user, "deleted": True, "episodes": reply.episodes})


@router.delete("/v1/sessions/{session_id:path}")
async def forget_session(session_id: str, parts: Parts, owner: WhoseMemory) -> JSONResponse:
    """Delete a session from the record and from every store. Deleting again deletes nothing."""
    request = ForgetRequest(tenant=owner.tenant, user=owner.user, session_id=_check_session_id(session_id))
    timeout = parts.settings.forget_timeout
    reply = await parts.bus.request(MEMORY_FORGET, request, timeout=timeout)
    return JSONResponse({"object": "session.deleted", "id": session_id, "deleted": True, "episodes": reply.episodes})


@router.get("/v1/episodes")
async def search_episodes(
    parts: Parts,
    owner: WhoseMemory,
    query: str = "",
    limit: Annotated[int, Query(ge=1, le=MAX_HITS)] = 10,
    session_id: str | None = None,
    as_of: str | None = None,
) -> JSONResponse:
    """The episodes that answer ``query``, best first; ``as_of`` asks what was known then.

    ``as_of`` is read as on the command line: a date means the end of that day.
    """
    if not query.strip():
        raise InvalidInput("'query' is empty: say what to look for.", param="query")
    session = None if session_id is None else _check_session_id(session_id)
    until = None if as_of is None else parse_end(as_of, param="as_of")
    request = SearchRequest(
        tenant=owner.tenant,
        user=owner.user,
        vector=await _embed(parts, query),
        text=query,
        limit=limit,
        session_id=session,
        as_of=until,
    )
    reply = await parts.bus.request(MEMORY_SEARCH, request, timeout=parts.settings.memory_timeout)
    hits = [{**_episode_body(hit), "score": hit.score, "reasons": list(hit.reasons)} for hit in reply.hits]
    return JSONResponse({"object": "list", "data": hits})


async def _embed(parts: Facade, text: str) -> tuple[float, ...]:
    timeout = parts.settings.memory_timeout
    reply = await parts.bus.request(EMBED, EmbedRequest(texts=(text,)), timeout=timeout)
    return reply.vectors[0]


def _check_session_id(session_id: str) -> str:
    if not re.fullmatch(SESSION_PATTERN, session_id):
        raise InvalidInput("a session id is 1 to 128 printable ASCII characters without spaces.", param="session_id")
    return session_id


def _episode_body(episode: RecalledEpisode) -> dict[str, Any]:
    return {
        "id": episode.episode_id,
        "object": "episode",
        "turn_id": episode.turn_id,
        "session_id": episode.session_id,
        "created_at": episode.created_at,
        "question": episode.question,
        "answer": episode.answer,
        "speaker": episode.speaker,
        "source_id": episode.source_id,
    }
