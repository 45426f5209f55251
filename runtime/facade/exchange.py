"""One request and its reply: whose turn it is, which session it continues, and its answer in the request's dialect."""

import re
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from functools import partial

import anyio
import msgspec
from fastapi import Request
from fastapi.responses import JSONResponse, Response
from opentelemetry import propagate

from bus import metrics
from runtime.facade.chat.dialect import Dialect
from runtime.facade.chat.headers import describe_turn
from runtime.facade.chat.request import CheckedRequest
from runtime.facade.chat.stream import Follow, StreamPart, TurnStream
from runtime.facade.chat.turns import FollowedTurn
from runtime.facade.dependencies import Facade
from runtime.facade.disconnect import run_while_connected
from runtime.facade.errors import ClientGone
from runtime.facade.owner import Owner, name_user
from runtime.limits import PLAIN_ANSWER, derive_limits
from schemas.calls import MEMORY_CONVERSATION
from schemas.chat import Message, digest_transcript, transcript_so_far
from schemas.envelope import SESSION_PATTERN
from schemas.errors import InvalidInput, KikiError
from schemas.events import AnswerReady
from schemas.memory import ConversationRequest

_IDEMPOTENCY_KEY = re.compile(r"[\x21-\x7e]{1,255}")


async def serve_turn(
    request: Request,
    chat_request: CheckedRequest,
    dialect: Dialect,
    *,
    parts: Facade,
    tenant: str,
    session_id: str | None = None,
) -> Response:
    """Answer a checked request. ``session_id`` is a session that the dialect names by its own means.

    Raises:
        KikiError: what the turn ends with instead of an answer, or a header is wrong.
    """
    follow = await prepare_turn(request, chat_request, parts=parts, tenant=tenant, session_id=session_id)
    if chat_request.stream:
        return TurnStream([StreamPart(follow=follow, request=chat_request, dialect=dialect)], parts.settings)
    answers = await take_answers(request, [follow])
    return JSONResponse(dialect.whole(answers[0]), headers=describe_answers(chat_request, answers))


async def prepare_turn(
    request: Request,
    chat_request: CheckedRequest,
    *,
    parts: Facade,
    tenant: str,
    session_id: str | None = None,
    number: int = 0,
) -> Follow:
    """What begins the turn of a checked request. ``number`` counts the turns of a request that has several.

    Raises:
        InvalidInput: a header is wrong, or the request's memory needs a user or a session that it does not name.
    """
    owner = Owner(tenant, name_user(request.headers, *chat_request.users, one_memory=parts.settings.one_memory))
    if chat_request.query.memory == "user" and not owner.user:
        raise InvalidInput("the memory of a user needs one: send 'user'.", param="kiki.memory")
    chat_request = await _limit_answer(chat_request, parts)
    if parts.settings.missing_adapter == "refuse":
        await _require_adapter(chat_request, parts)
    session = session_id or await _find_session(request, chat_request, parts, owner)
    key = _idempotency_key(request)
    if key is not None and number:
        key = f"{key}\nturn {number}"  # a header holds no newline: this is no client's key
    context = propagate.extract(dict(request.headers))
    return partial(parts.turns.follow, chat_request, owner=owner, session_id=session, key=key, context=context)


async def take_answers(request: Request, follows: Sequence[Follow]) -> list[AnswerReady]:
    """Run the turns of a request at once, and wait for their answers.

    Raises:
        KikiError: what one of them ends with instead; the others are cancelled.
        ClientGone: the client left; all are cancelled.
    """
    async with AsyncExitStack() as stack:
        turns = [await stack.enter_async_context(follow()) for follow in follows]
        request.state.turn_id = turns[0].id
        try:
            return await run_while_connected(request.receive, lambda: _gather_answers(turns))
        except ClientGone:
            request.state.client_gone = True
            raise


def describe_answers(chat_request: CheckedRequest, answers: Sequence[AnswerReady]) -> dict[str, str]:
    """The headers that say how the turns of a request were served."""
    inferences = [answer.inference for answer in answers]
    adapters = [use for inference in inferences for candidate in inference.candidates for use in candidate.adapters]
    return describe_turn(chat_request, adapters, is_cut=any(inference.cut for inference in inferences))


async def _gather_answers(turns: Sequence[FollowedTurn]) -> list[AnswerReady]:
    answers: dict[str, AnswerReady] = {}
    errors: list[KikiError] = []

    async def wait_for(turn: FollowedTurn) -> None:
        try:
            answers[turn.id] = answer = await turn.answer()
            turn.count_first_text(answer.route.plan.level)
        except KikiError as error:
            errors.append(error)
            tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        for turn in turns:
            tasks.start_soon(wait_for, turn)
    if errors:
        raise errors[0]
    return [answers[turn.id] for turn in turns]


async def _limit_answer(chat_request: CheckedRequest, parts: Facade) -> CheckedRequest:
    """The request with an answer that the model's context can hold; it is asked for only where an answer is long."""
    query = chat_request.query
    if query.sampling.max_tokens <= PLAIN_ANSWER or parts.settings.max_tokens_cap is not None:
        return chat_request
    most = derive_limits(await parts.abilities.read_context_tokens()).answer
    sampling = msgspec.structs.replace(query.sampling, max_tokens=min(query.sampling.max_tokens, most))
    return replace(chat_request, query=msgspec.structs.replace(query, sampling=sampling))


async def _require_adapter(chat_request: CheckedRequest, parts: Facade) -> None:
    """Raise when the model id names an adapter that the worker does not have."""
    if chat_request.niche is None:
        return
    names = await parts.abilities.read_adapters()
    if names is not None and chat_request.niche not in names:
        raise InvalidInput(
            f"the model '{chat_request.query.model}' names the adapter '{chat_request.niche}', which is not there: ask "
            "another model, or have it installed.",
            code="adapter_not_found",
            param="model",
        )


async def _find_session(request: Request, chat_request: CheckedRequest, parts: Facade, owner: Owner) -> str | None:
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
        reply = await parts.bus.request(MEMORY_CONVERSATION, request, timeout=parts.settings.memory_timeout)
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
