"""OpenAI's chat completions: the dialect of ``POST /v1/chat/completions``."""

from collections.abc import Sequence
from typing import Any

from runtime.facade.chat import response, tools
from runtime.facade.chat.dialect import Beginning, TextKind, write_data
from runtime.facade.chat.request import CheckedRequest
from runtime.facade.chat.response import Choice
from runtime.facade.errors import describe_error
from schemas.envelope import Envelope
from schemas.errors import KikiError
from schemas.events import AnswerReady
from schemas.findings import LikelyToken, TokenLogprob


class ChatDialect:
    """:class:`runtime.facade.chat.dialect.Dialect` of chat completions.

    ``include_usage``: a last chunk without choices has the usage.
    """

    def __init__(self, request: CheckedRequest, *, include_usage: bool = False) -> None:
        self._request = request
        self._include_usage = include_usage
        self._head: dict[str, Any] = {}

    def whole(self, answer: AnswerReady) -> dict[str, Any]:
        """A ``chat.completion``."""
        request = self._request
        return {
            **_head(answer.envelope, request, "chat.completion", answer.inference.model_digest),
            "choices": [self._describe_choice(choice) for choice in response.choices(answer, request)],
            "usage": response.usage(response.own_usage(answer, request)),
            "kiki": response.account(answer, request),
        }

    def begin(self, beginning: Beginning) -> bytes:
        """The first chunk of each choice, which has its role."""
        self._head = _head(beginning.envelope, self._request, "chat.completion.chunk", beginning.model_digest)
        role = {"role": "assistant", "refusal": None}
        return b"".join(self._write_chunk(role, index=index) for index in range(self._request.n))

    def text(self, kind: TextKind, text: str, tokens: Sequence[TokenLogprob], index: int) -> bytes:
        """A chunk with a piece of text."""
        return self._write_chunk({kind: text} if text else {}, index=index, tokens=tokens)

    def finish(self, choice: Choice, answer: AnswerReady) -> bytes:
        """The choice's calls and its last chunk."""
        request, data = self._request, b""
        if choice.calls:
            calls = tools.describe_calls(choice.calls, custom=request.custom_tools, streamed=True)
            data = self._write_chunk({"tool_calls": calls}, index=choice.index)
        more: dict[str, Any] = (
            {"kiki": response.account(answer, request)} if request.trace and choice.index == 0 else {}
        )
        return data + self._write_chunk({}, index=choice.index, finish_reason=choice.finish_reason, **more)

    def end(self, answer: AnswerReady) -> bytes:
        """The usage, if it was asked for, and the mark that ends the stream."""
        data = b""
        if self._include_usage:
            usage = response.usage(response.own_usage(answer, self._request))
            data = write_data(
                {**self._head, "choices": [], "usage": usage, "kiki": response.account(answer, self._request)}
            )
        return data + b"data: [DONE]\n\n"

    def fail(self, error: KikiError) -> bytes:
        """The error; nothing follows it."""
        return write_data(describe_error(error))

    def _describe_choice(self, choice: Choice) -> dict[str, Any]:
        message: dict[str, Any] = {
            "role": "assistant",
            "content": choice.text or (None if choice.calls else ""),
            "refusal": None,
        }
        if choice.reasoning:
            message["reasoning"] = choice.reasoning
        if choice.calls:
            message["tool_calls"] = tools.describe_calls(choice.calls, custom=self._request.custom_tools)
        return {
            "index": choice.index,
            "message": message,
            "logprobs": self._describe_tokens(choice.tokens),
            "finish_reason": choice.finish_reason,
        }

    def _describe_tokens(self, tokens: Sequence[TokenLogprob]) -> dict[str, Any] | None:
        if not self._request.query.sampling.logprobs:
            return None
        content = [_token(token) | {"top_logprobs": [_token(top) for top in token.top]} for token in tokens]
        return {"content": content, "refusal": None}

    def _write_chunk(
        self,
        delta: dict[str, Any],
        *,
        index: int,
        tokens: Sequence[TokenLogprob] = (),
        finish_reason: str | None = None,
        **more: Any,
    ) -> bytes:
        logprobs = self._describe_tokens(tokens) if tokens else None
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish_reason}
        usage = {"usage": None} if self._include_usage else {}
        return write_data({**self._head, "choices": [choice], **usage, **more})


def _head(envelope: Envelope, request: CheckedRequest, kind: str, model_digest: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{envelope.turn_id}",
        "object": kind,
        "created": int(envelope.created_at),
        "model": request.query.model,
        "system_fingerprint": response.fingerprint(model_digest),
    }


def _token(token: LikelyToken) -> dict[str, Any]:
    return {"token": token.token, "logprob": token.logprob, "bytes": response.bytes_of(token)}
