"""The answers to a request's prompts as one ``text_completion``, whole or while they come."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from runtime.facade.chat import response
from runtime.facade.chat.dialect import Beginning, TextKind, write_data
from runtime.facade.chat.request import CheckedRequest
from runtime.facade.chat.response import Choice
from runtime.facade.completions.logprobs import Offsets, TokenRow, answer_rows, describe_rows, echo_rows
from runtime.facade.completions.request import CheckedCompletion
from runtime.facade.errors import describe_error
from schemas.chat import Usage
from schemas.envelope import Envelope
from schemas.errors import KikiError
from schemas.events import AnswerReady
from schemas.findings import Echo, TokenLogprob


@dataclass(frozen=True, kw_only=True)
class TextPiece:
    """A piece of a choice's text, with the tokens that came with it."""

    text: str = ""
    rows: list[TokenRow] = field(default_factory=list)


@dataclass(kw_only=True)
class CompletionStream:
    """What the turns of a streamed request have in common: the chunks' head, and the usage of those that ended."""

    head: dict[str, Any] = field(default_factory=dict)
    usage: Usage = field(default_factory=Usage)


class CompletionDialect:
    """:class:`runtime.facade.chat.dialect.StreamDialect` of one prompt of text completions.

    A choice's last piece comes together with the reason for which it ended. Where only the answer says what the prompt
    is, namely its tokens' probabilities or the text of token ids, nothing is sent before it.
    """

    def __init__(self, completion: CheckedCompletion, number: int, stream: CompletionStream) -> None:
        self._completion = completion
        self._request = completion.turns[number]
        self._number = number
        self._stream = stream
        query = self._request.query
        has_tokens = query.continuation is not None and bool(query.continuation.tokens)
        self._waits = completion.echo and (has_tokens or query.sampling.logprobs)
        echo = [TextPiece(text=query.messages[-1].content)] if completion.echo and not self._waits else []
        self._pieces = [list(echo) for _ in range(self._request.n)]
        self._offsets = [Offsets() for _ in range(self._request.n)]

    def begin(self, beginning: Beginning) -> bytes:
        """Nothing: the chunks' head is that of the first turn."""
        self._stream.head = self._stream.head or _describe_head(
            beginning.envelope, self._request, beginning.model_digest
        )
        return b""

    def text(self, kind: TextKind, text: str, tokens: Sequence[TokenLogprob], index: int) -> bytes:  # noqa: ARG002
        """The piece before this one."""
        if not self._completion.text:
            return b""
        pieces = self._pieces[index]
        pieces.append(TextPiece(text=text, rows=answer_rows(tokens)))
        if self._waits:
            return b""
        self._pieces[index] = pieces[-1:]
        return b"".join(self._write_chunk(piece, index) for piece in pieces[:-1])

    def finish(self, choice: Choice, answer: AnswerReady) -> bytes:
        """What was not sent yet, and why the choice ended."""
        pieces = self._pieces[choice.index]
        if self._waits:
            echo = _find_echo(answer, self._request)
            pieces.insert(0, TextPiece(text=echo.text, rows=echo_rows(echo)))
        *before, last = pieces or [TextPiece()]
        more: dict[str, Any] = {}
        if self._request.trace and choice.index == 0:
            more["kiki"] = response.account(answer, self._request)
        data = b"".join(self._write_chunk(piece, choice.index) for piece in before)
        reason = choice.finish_reason if self._completion.text else "length"
        return data + self._write_chunk(last, choice.index, finish_reason=reason, **more)

    def end(self, answer: AnswerReady) -> bytes:
        """After the last prompt the usage, if it was asked for, and the mark that ends the stream."""
        self._stream.usage += _own_usage(answer, self._request, self._completion)
        if self._number < len(self._completion.turns) - 1:
            return b""
        data = b""
        if self._completion.include_usage:
            data = write_data({**self._stream.head, "choices": [], "usage": response.usage(self._stream.usage)})
        return data + b"data: [DONE]\n\n"

    def fail(self, error: KikiError) -> bytes:
        """The error; nothing follows it."""
        return write_data(describe_error(error))

    def _write_chunk(self, piece: TextPiece, index: int, *, finish_reason: str | None = None, **more: Any) -> bytes:
        logprobs = describe_rows(piece.rows, self._offsets[index]) if piece.rows else None
        choice = {
            "index": self._number * self._request.n + index,
            "text": piece.text,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }
        usage = {"usage": None} if self._completion.include_usage else {}
        return write_data({**self._stream.head, "choices": [choice], **usage, **more})


def describe_completion(completion: CheckedCompletion, answers: Sequence[AnswerReady]) -> dict[str, Any]:
    """A ``text_completion`` with the answers to all prompts, in order."""
    choices: list[dict[str, Any]] = []
    usage = Usage()
    for request, answer in zip(completion.turns, answers, strict=True):
        usage += _own_usage(answer, request, completion)
        for choice in response.choices(answer, request):
            choices.append({"index": len(choices), **_describe_choice(choice, answer, request, completion)})
    first = answers[0]
    return {
        **_describe_head(first.envelope, completion.first, first.inference.model_digest),
        "choices": choices,
        "usage": response.usage(usage),
        "kiki": _describe_account(completion, answers),
    }


def _describe_choice(
    choice: Choice, answer: AnswerReady, request: CheckedRequest, completion: CheckedCompletion
) -> dict[str, Any]:
    pieces = [TextPiece(text=choice.text, rows=answer_rows(choice.tokens))] if completion.text else []
    if completion.echo:
        echo = _find_echo(answer, request)
        pieces.insert(0, TextPiece(text=echo.text, rows=echo_rows(echo)))
    rows = [row for piece in pieces for row in piece.rows]
    return {
        "text": "".join(piece.text for piece in pieces),
        "logprobs": describe_rows(rows, Offsets()) if request.query.sampling.logprobs else None,
        "finish_reason": choice.finish_reason if completion.text else "length",
    }


def _find_echo(answer: AnswerReady, request: CheckedRequest) -> Echo:
    """What the worker says that it continued."""
    return answer.inference.echo or Echo(text=request.query.messages[-1].content)


def _own_usage(answer: AnswerReady, request: CheckedRequest, completion: CheckedCompletion) -> Usage:
    counts = response.own_usage(answer, request)
    return counts if completion.text else Usage(prompt_tokens=counts.prompt_tokens)


def _describe_account(completion: CheckedCompletion, answers: Sequence[AnswerReady]) -> dict[str, Any]:
    """What the turns took: that of the one turn, or the sum and each turn's own."""
    accounts = [response.account(answer, request) for request, answer in zip(completion.turns, answers, strict=True)]
    if len(accounts) == 1:
        return accounts[0]
    spent = Usage()
    for answer in answers:
        spent += answer.usage
    return {"usage": response.usage(spent), "turns": accounts}


def _describe_head(envelope: Envelope, request: CheckedRequest, model_digest: str) -> dict[str, Any]:
    return {
        "id": f"cmpl-{envelope.turn_id}",
        "object": "text_completion",
        "created": int(envelope.created_at),
        "model": request.query.model,
        "system_fingerprint": response.fingerprint(model_digest),
    }
