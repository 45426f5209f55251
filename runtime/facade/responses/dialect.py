"""OpenAI's responses: the dialect of ``POST /v1/responses``, which also writes stored turns again."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from runtime.facade.chat import response
from runtime.facade.chat.dialect import Beginning, TextKind, write_event
from runtime.facade.chat.request import CheckedRequest
from runtime.facade.chat.response import Choice
from runtime.facade.errors import describe_error
from runtime.facade.responses import output
from runtime.facade.responses.output import Status
from runtime.facade.responses.terms import Terms
from runtime.facade.words import translate
from schemas.envelope import Envelope
from schemas.errors import KikiError
from schemas.events import AnswerReady
from schemas.findings import TokenLogprob


class ResponseDialect:
    """:class:`runtime.facade.chat.dialect.Dialect` of responses."""

    def __init__(self, request: CheckedRequest, terms: Terms) -> None:
        self._request = request
        self._terms = terms
        self._events = 0
        self._turn_id = ""
        self._running: dict[str, Any] = {}
        self._output: list[dict[str, Any]] = []
        self._open: _OpenItem | None = None
        self._has_message = False
        self._tokens: list[TokenLogprob] = []

    def whole(self, answer: AnswerReady) -> dict[str, Any]:
        """A ``response``."""
        (choice,) = response.choices(answer, self._request)
        turn_id, custom = answer.envelope.turn_id, self._terms.custom_tools
        return self._describe_answer(answer, output.describe_output(choice, turn_id=turn_id, custom=custom))

    def describe_state(self, envelope: Envelope, status: Status, error: KikiError | None = None) -> dict[str, Any]:
        """A ``response`` without an answer: it still runs, failed with ``error``, or was cancelled."""
        return {
            **self._describe_head(envelope.turn_id, envelope.created_at),
            "status": status,
            "completed_at": None,
            "error": None if error is None else output.describe_failure(translate(error)),
            "incomplete_details": None,
            "output": [],
            "usage": None,
        }

    def begin(self, beginning: Beginning) -> bytes:
        """The response, which runs."""
        self._turn_id = beginning.envelope.turn_id
        self._running = self.describe_state(beginning.envelope, "in_progress")
        return b"".join(self._write(f"response.{name}", response=self._running) for name in ("created", "in_progress"))

    def text(self, kind: TextKind, text: str, tokens: Sequence[TokenLogprob], index: int) -> bytes:  # noqa: ARG002
        """A piece of the reasoning or, after it, of the message; reasoning that comes later is left out.

        Reasoning has no log-probabilities: those of its tokens come with the message.
        """
        self._tokens += tokens
        if kind == "reasoning" and self._has_message:
            return b""
        data = b""
        if self._open is None or self._open.kind != kind:
            if not text:
                return b""
            data = self._close() + self._begin_item(kind)
        return data + self._write_piece(text)

    def finish(self, choice: Choice, answer: AnswerReady) -> bytes:  # noqa: ARG002 - the protocol's signature
        """The end of the open item, and the calls."""
        data = b""
        if not choice.calls and not self._has_message:
            data = self._close() + self._begin_item("content")
            if self._tokens:
                data += self._write_piece("")
        data += self._close(output.status_of(choice.finish_reason))
        calls = output.describe_calls(choice, turn_id=self._turn_id, custom=self._terms.custom_tools)
        return data + b"".join(event for call in calls for event in self._write_call(call))

    def end(self, answer: AnswerReady) -> bytes:
        """The whole response."""
        body = self._describe_answer(answer, self._output)
        return self._write(f"response.{body['status']}", response=body)

    def fail(self, error: KikiError) -> bytes:
        """The error, for clients that raise it, and the failed response; nothing follows them."""
        fault = describe_error(translate(error))["error"]
        flat = {"code": error.code, "message": error.message, "param": error.param}
        end = {"status": "failed", "error": output.describe_failure(error), "output": list(self._items())}
        failed = self._running | end
        return self._write("error", **flat, error=fault) + self._write("response.failed", response=failed)

    def _describe_answer(self, answer: AnswerReady, items: list[dict[str, Any]]) -> dict[str, Any]:
        status = output.status_of(answer.finish_reason)
        return {
            **self._describe_head(answer.envelope.turn_id, _began_at(answer)),
            "status": status,
            "completed_at": int(answer.envelope.created_at),
            "error": None,
            "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
            "output": items,
            "usage": output.describe_usage(response.own_usage(answer, self._request)),
            "kiki": response.account(answer, self._request),
        }

    def _describe_head(self, turn_id: str, created_at: float) -> dict[str, Any]:
        return {"id": f"resp_{turn_id}", "object": "response", "created_at": int(created_at), **self._terms.fields}

    def _items(self) -> Iterator[dict[str, Any]]:
        """The items so far, the open one included."""
        yield from self._output
        if self._open is not None:
            yield self._open.describe("incomplete")

    def _begin_item(self, kind: TextKind) -> bytes:
        index, self._has_message = len(self._output), kind == "content"
        item = output.text_item(kind, "", (), "in_progress")
        self._open = _OpenItem(kind, output.item_id(item["type"], self._turn_id), index)
        item_head = {"id": self._open.id, **item, "content": []}
        added = self._write("response.output_item.added", output_index=index, item=item_head)
        part = output.text_part(kind, "", ())
        return added + self._write("response.content_part.added", **self._open.place, part=part)

    def _write_piece(self, text: str) -> bytes:
        assert self._open is not None
        self._open.text += text
        if self._open.kind == "reasoning":
            return self._write("response.reasoning_text.delta", **self._open.place, delta=text)
        tokens, self._tokens = self._tokens, []
        self._open.tokens += tokens
        logprobs = output.describe_tokens(tokens)
        return self._write("response.output_text.delta", **self._open.place, delta=text, logprobs=logprobs)

    def _close(self, status: Status = "completed") -> bytes:
        """The end of the open item, if there is one."""
        if self._open is None:
            return b""
        closing, self._open = self._open, None
        item = closing.describe(status)
        self._output.append(item)
        (part,) = item["content"]
        ended = {key: part[key] for key in ("text", "logprobs") if key in part}
        return (
            self._write(f"response.{part['type']}.done", **closing.place, **ended)
            + self._write("response.content_part.done", **closing.place, part=part)
            + self._write("response.output_item.done", output_index=closing.index, item=item)
        )

    def _write_call(self, item: dict[str, Any]) -> Iterator[bytes]:
        index = len(self._output)
        place = {"item_id": item["id"], "output_index": index}
        name, content = (
            ("custom_tool_call_input", "input") if "input" in item else ("function_call_arguments", "arguments")
        )
        begun = {**item, content: "", "status": "in_progress"}
        self._output.append(item)
        yield self._write("response.output_item.added", output_index=index, item=begun)
        yield self._write(f"response.{name}.delta", **place, delta=item[content])
        yield self._write(f"response.{name}.done", **place, **{content: item[content]})
        yield self._write("response.output_item.done", output_index=index, item=item)

    def _write(self, kind: str, **fields: Any) -> bytes:
        """The next event of the stream."""
        number, self._events = self._events, self._events + 1
        return write_event(kind, {"type": kind, "sequence_number": number, **fields})


@dataclass
class _OpenItem:
    """A message or a reasoning item of which a stream has sent a part."""

    kind: TextKind
    id: str
    index: int
    text: str = ""
    tokens: list[TokenLogprob] = field(default_factory=list)

    @property
    def place(self) -> dict[str, Any]:
        """Where the item's only part is in the output."""
        return {"item_id": self.id, "output_index": self.index, "content_index": 0}

    def describe(self, status: Status) -> dict[str, Any]:
        """The item with what was sent of it."""
        return {"id": self.id, **output.text_item(self.kind, self.text, self.tokens, status)}


def _began_at(answer: AnswerReady) -> float:
    """When the first stage began with the turn (Unix time); the answer does not say when it was asked for."""
    return min((timing.started_at for timing in answer.timings), default=answer.envelope.created_at)
