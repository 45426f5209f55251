"""Decodes the candidates of a request, with one call for each."""

import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import anyio

from agents.inference.candidates import seed_of, select_usable
from agents.inference.json_schema.grammar import check_schema
from agents.inference.json_schema.references import SchemaFault
from agents.inference.requests import Acceptance, DecodingOutcome, OnAcceptance, OnPiece, Request
from agents.inference.text import Kind, Piece, TextFilter
from agents.inference.tools import callable_tools, check_tools
from agents.inference.upstream.capabilities import Capabilities
from agents.inference.upstream.connection import UpstreamConnection
from agents.inference.upstream.request import continuation_fields, count_body, prompt_of
from agents.inference.upstream.response import Answer, read_tokens
from agents.inference.upstream.together import run_together
from schemas.errors import DeadlineExceeded, InvalidInput, KikiError
from schemas.findings import AdapterUse, Echo

COUNT_SECONDS = 2.0
"""Longest wait for an upstream to count the tokens of a conversation."""


class Decoding:
    """The candidates of one request while the upstream decodes them.

    ``on_piece`` gets the pieces of the first; ``on_acceptance`` hears when the first part of any answer comes: what
    an upstream refuses, it refuses before.
    """

    def __init__(
        self,
        connection: UpstreamConnection,
        request: Request,
        uses: tuple[AdapterUse, ...],
        *,
        on_piece: OnPiece | None = None,
        on_acceptance: OnAcceptance | None = None,
    ) -> None:
        self._connection, self._request, self._uses = connection, request, uses
        self._on_piece, self._on_acceptance = on_piece, on_acceptance
        self._is_own = not request.own or request.own == request.messages
        self._own_tokens = 0
        self._echo: Echo | None = None
        self._answers = [self._make_answer(index) for index in range(request.n)]

    async def run(self) -> DecodingOutcome:
        """Decode all candidates, until the request's ``finish`` time.

        Raises:
            InvalidInput: the upstream would silently ignore a part of the request.
            DeadlineExceeded: the time was over before there was any text.
            KikiError: what the calls raise.
        """
        connection, request, started = self._connection, self._request, time.monotonic()
        refuse_unsupported(request, connection.require_capabilities())
        with anyio.move_on_after(request.finish - time.time()) as scope, _name_input(request):
            self._echo = await self._read_echo()
            await run_together([self._count_own_tokens, *(self._prepare_call(answer) for answer in self._answers)])
        if scope.cancelled_caught:
            await self._cut()
        candidates = tuple(answer.candidate(adapters=self._uses) for answer in self._answers)
        connection.counts["prompt_tokens_total"] += sum(candidate.usage.prompt_tokens for candidate in candidates)
        connection.counts["tokens_decoded_total"] += sum(candidate.usage.completion_tokens for candidate in candidates)
        prompt_tokens = candidates[0].usage.prompt_tokens
        return DecodingOutcome(
            candidates=select_usable(candidates) if scope.cancelled_caught else candidates,
            adapters=self._uses,
            prompt_tokens=prompt_tokens,
            own_tokens=prompt_tokens if self._is_own else self._own_tokens,
            cut=scope.cancelled_caught,
            echo=self._echo,
            compute=time.monotonic() - started,
        )

    def _make_answer(self, index: int) -> Answer:
        sampling, is_chat = self._request.sampling, self._request.continuation is None
        begins: Kind = "reasoning" if is_chat and self._connection.upstream.thinking else "content"
        text_filter = (
            TextFilter(stops=sampling.stop, begins=begins) if is_chat else TextFilter(stops=sampling.stop, markers=None)
        )
        return Answer(
            index=index, seed=seed_of(sampling, index), text_filter=text_filter, with_tokens=sampling.logprobs
        )

    async def _count_own_tokens(self) -> None:
        """Have the upstream count the client's own messages where others were added to them, if it can."""
        request = self._request
        if self._is_own or not self._connection.can_count:
            return
        with contextlib.suppress(KikiError), anyio.move_on_after(COUNT_SECONDS):
            body = count_body(request.own, request.tooling, thinking=request.thinking)
            self._own_tokens = await self._connection.count_tokens(body)

    def _prepare_call(self, answer: Answer) -> Callable[[], Awaitable[None]]:
        return lambda: self._decode(answer)

    async def _decode(self, answer: Answer) -> None:
        """Decode one candidate. An upstream that lists its context refuses a larger budget than it leaves, and ends
        answers without a budget there."""
        request, connection = self._request, self._connection
        body = await connection.build_body(request, self._uses, candidate=answer.index)
        body |= _supported_fields(request, can := connection.require_capabilities())
        if can.continues and request.continuation is None:
            body["extra_body"] = {**body["extra_body"], **continuation_fields(request.messages)}
        try:
            await self._receive(answer, body)
        except InvalidInput as error:
            if error.code != "context_length_exceeded" or not connection.modules.context_tokens:
                raise
            await self._receive(answer, {name: value for name, value in body.items() if name != "max_tokens"})
        with connection.translate_errors():
            rest = answer.end()
        await self._pass_on(answer, rest)

    async def _receive(self, answer: Answer, body: dict[str, Any]) -> None:
        request, can = self._request, self._connection.require_capabilities()
        streams_text = answer.index == 0 and self._on_piece is not None and not request.sampling.logprobs
        if can.stream_logprobs or not can.whole_logprobs or streams_text:
            async with self._connection.open_stream(body, request=request) as chunks:
                async for chunk in chunks:
                    await self._take(answer, chunk)
                    if answer.stopped:
                        break
        else:  # this server sends log-probabilities only at the end
            await self._take(answer, await self._connection.complete(body, request=request))

    async def _take(self, answer: Answer, reply: Mapping[str, Any]) -> None:
        if (accept := self._on_acceptance) is not None:
            self._on_acceptance = None
            await accept(Acceptance(adapters=self._uses))
        await self._pass_on(answer, answer.take(reply))

    async def _pass_on(self, answer: Answer, pieces: list[Piece]) -> None:
        if self._on_piece is not None and answer.index == 0:
            for piece in pieces:
                await self._on_piece(piece)

    async def _cut(self) -> None:
        """End all answers with what there is.

        Raises:
            DeadlineExceeded: there is nothing.
        """
        if not any(answer.has_begun for answer in self._answers):
            raise DeadlineExceeded(
                "the turn's time was over before the upstream sent any text: try again later, or shorten the prompt."
            )
        for answer in self._answers:
            await self._pass_on(answer, answer.cut())

    async def _read_echo(self) -> Echo | None:
        """What is continued, if it is asked for. An upstream says the tokens of a prompt in a call of their own."""
        request, connection = self._request, self._connection
        continuation, sampling = request.continuation, request.sampling
        if continuation is None or not continuation.echo:
            return None
        if not continuation.tokens and not sampling.logprobs:
            return Echo(text=prompt_of(request))
        body = await connection.build_body(request, self._uses)
        body |= {"max_tokens": 1, "temperature": 0.0, "echo": True, "logprobs": max(1, sampling.top_logprobs)}
        tokens = read_tokens(await connection.complete(body, request=request))[:-1]
        text = "".join(token.token for token in tokens) if continuation.tokens else prompt_of(request)
        return Echo(text=text, tokens=tuple(tokens) if sampling.logprobs else ())


@contextlib.contextmanager
def _name_input(request: Request) -> Iterator[None]:
    """Have the error of a text that is too long name the field that it came in."""
    try:
        yield
    except InvalidInput as error:
        if request.continuation is None or error.param != "messages":
            raise
        raise InvalidInput(error.message, code=error.code, param="prompt") from error


def refuse_unsupported(request: Request, can: Capabilities) -> None:
    """Refuse what this upstream would silently ignore, and schemas that nobody can follow.

    Raises:
        InvalidInput: ``param`` names it.
    """
    sampling, tooling = request.sampling, request.tooling
    if (continuation := request.continuation) is not None:
        if not can.completions:
            raise InvalidInput("this upstream continues no texts: it has no /v1/completions.", param="prompt")
        if continuation.echo and (continuation.tokens or sampling.logprobs) and not can.echo:
            raise InvalidInput("this upstream does not say the tokens of a prompt.", param="echo")
    if tooling is not None:
        check_tools(tooling.tools)
    if tooling is not None and not can.tools:
        raise InvalidInput("this upstream does not pass tools to its model.", param="tools")
    if tooling is not None and tooling.must_call and not can.forced_tools:
        raise InvalidInput("this upstream cannot force a tool call: use tool_choice 'auto'.", param="tool_choice")
    if sampling.json_schema is not None and not can.schemas:
        raise InvalidInput("this upstream does not follow JSON schemas.", param="response_format")
    if tooling is not None and tooling.must_call:
        for tool in callable_tools(tooling):
            _check_schema(tool.parameters, f"the parameters of '{tool.name}'", param="tools")
    if sampling.json_schema is not None:
        _check_schema(sampling.json_schema, "the JSON schema", param="response_format")
    if sampling.logprobs and not can.token_texts:
        raise InvalidInput("this upstream does not send tokens with their log-probabilities.", param="logprobs")
    if sampling.top_logprobs > can.top_logprobs:
        raise InvalidInput(f"this upstream sends {can.top_logprobs} likeliest tokens at most.", param="top_logprobs")


def _check_schema(schema: str, what: str, *, param: str) -> None:
    try:
        check_schema(schema)
    except SchemaFault as fault:
        raise InvalidInput(f"{what} cannot be served: {fault}.", param=param) from fault


def _supported_fields(request: Request, can: Capabilities) -> dict[str, object]:
    """Fields that are sent only to a server that supports them; stop strings are applied here anyway, and
    missing log-probabilities are counted."""
    sampling = request.sampling
    fields: dict[str, object] = {}
    if sampling.stop and can.stops:
        fields["stop"] = list(sampling.stop)
    if can.stream_logprobs or can.whole_logprobs:
        fields["logprobs"] = True if request.continuation is None else max(1, sampling.top_logprobs)
    if sampling.top_logprobs and request.continuation is None:
        fields["top_logprobs"] = sampling.top_logprobs
    return fields
