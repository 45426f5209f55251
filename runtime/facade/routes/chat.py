"""``POST /v1/chat/completions``: one turn, plain or streamed."""

import re

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from opentelemetry import propagate

from runtime.facade.body import read_body
from runtime.facade.chat import response
from runtime.facade.chat.request import CheckedRequest, read_chat
from runtime.facade.chat.stream import ChatStream, Following
from runtime.facade.dependencies import Parts, Tenant
from runtime.facade.disconnect import run_while_connected
from runtime.facade.errors import ClientGone
from runtime.facade.routes.sessions import derive_session_id
from schemas.envelope import SESSION_PATTERN
from schemas.errors import InvalidInput

router = APIRouter()
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")


@router.post("/v1/chat/completions")
async def chat_completions(request: Request, parts: Parts, tenant: Tenant) -> Response:
    """Answer a conversation."""
    chat_request = read_chat(await read_body(request, parts.settings), models=parts.models, settings=parts.settings)
    session_id, key = _session_id(request, chat_request), _idempotency_key(request)
    context = propagate.extract(dict(request.headers))

    def follow() -> Following:
        return parts.turns.follow(chat_request, tenant=tenant, session_id=session_id, key=key, context=context)

    if chat_request.stream:
        return ChatStream(follow, chat_request, parts.settings)
    async with follow() as turn:
        request.state.turn_id = turn.id
        try:
            answer = await run_while_connected(request.receive, turn.answer)
        except ClientGone:
            request.state.client_gone = True
            raise
        turn.count_first_text(answer.route.plan.level)
    return JSONResponse(response.completion(answer, chat_request))


def _session_id(request: Request, chat_request: CheckedRequest) -> str:
    header = request.headers.get("x-session-id")
    session, param = (chat_request.session, "metadata.session_id") if header is None else (header, "X-Session-Id")
    if session is not None and not re.fullmatch(SESSION_PATTERN, session):
        raise InvalidInput("a session id is 1 to 128 printable ASCII characters without spaces.", param=param)
    if session is None and chat_request.query.history == "session":
        raise InvalidInput(
            "'kiki.history' needs a session: send its id as X-Session-Id or metadata.session_id.", param="kiki.history"
        )
    return derive_session_id(chat_request.query.messages) if session is None else session


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not _IDEMPOTENCY_KEY.fullmatch(key):
        raise InvalidInput(
            "an Idempotency-Key is 1 to 255 printable ASCII characters without spaces.", param="Idempotency-Key"
        )
    return key
