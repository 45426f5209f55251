"""``POST /v1/chat/completions``: one turn, plain or streamed."""

import re
from collections.abc import Sequence

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from opentelemetry import propagate

from bus import metrics
from runtime.facade.body import read_body
from runtime.facade.chat import response
from runtime.facade.chat.request import CheckedRequest, read_chat
from runtime.facade.chat.stream import ChatStream, Following
from runtime.facade.dependencies import Facade, Parts, Tenant
from runtime.facade.disconnect import run_while_connected
from runtime.facade.errors import ClientGone
from runtime.facade.owner import Owner, name_user
from schemas.chat import Message, digest_transcript, transcript_so_far
from schemas.envelope import SESSION_PATTERN
from schemas.errors import InvalidInput, KikiError
from schemas.memory import ConversationReply, ConversationRequest

router = APIRouter()
_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")


@router.post("/v1/chat/completions")
async def chat_completions(request: Request, parts: Parts, tenant: Tenant) -> Response:
    """Answer a conversation."""
    chat_request = read_chat(await read_body(request, parts.settings), models=parts.models, settings=parts.settings)
    owner = Owner(tenant, name_user(request.headers, *chat_request.users, one_memory=parts.settings.one_memory))
    if chat_request.query.memory == "user" and not owner.user:
        raise InvalidInput("the memory of a user needs one: send 'user'.", param="kiki.memory")
    session_id, key = await _session_id(request, chat_request, parts, owner), _idempotency_key(request)
    context = propagate.extract(dict(request.headers))

    def follow() -> Following:
        return parts.turns.follow(chat_request, owner=owner, session_id=session_id, key=key, context=context)

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


async def _session_id(request: Request, chat_request: CheckedRequest, parts: Facade, owner: Owner) -> str | None:
    """The session that the request names, or that of the conversation which it continues; None begins a new one."""
    header = request.headers.get("x-session-id")
    session, param = (chat_request.session, "metadata.session_id") if header is None else (header, "X-Session-Id")
    if session is not None and not re.fullmatch(SESSION_PATTERN, session):
        raise InvalidInput("a session id is 1 to 128 printable ASCII characters without spaces.", param=param)
    if session is None and chat_request.query.history == "session":
        raise InvalidInput(
            "'kiki.history' needs a session: send its id as X-Session-Id or metadata.session_id.", param="kiki.history"
        )
    return session or await _find_conversation(chat_request.query.messages, parts, owner)


async def _find_conversation(messages: Sequence[Message], parts: Facade, owner: Owner) -> str | None:
    transcript = transcript_so_far(messages)
    if not transcript:
        return None
    request = ConversationRequest(tenant=owner.tenant, user=owner.user, transcript=digest_transcript(transcript))
    try:
        reply = await parts.bus.request(
            "memory.conversation", request, ConversationReply, timeout=parts.settings.memory_timeout
        )
    except KikiError as error:
        metrics.count_degraded("facade.conversation", f"a new conversation begins: {error.message}")
        return None
    return reply.session_id


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not _IDEMPOTENCY_KEY.fullmatch(key):
        raise InvalidInput(
            "an Idempotency-Key is 1 to 255 printable ASCII characters without spaces.", param="Idempotency-Key"
        )
    return key
