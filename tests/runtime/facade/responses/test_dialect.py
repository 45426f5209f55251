"""The stream of a response where pieces come late, or do not come at all: its items still follow each other."""

import json
from typing import Any

import pytest

from runtime.facade import FacadeSettings
from runtime.facade.chat import response
from runtime.facade.chat.dialect import Beginning
from runtime.facade.responses.dialect import ResponseDialect
from runtime.facade.responses.request import ResponseRequest, check_response
from schemas.chat import ToolCall
from schemas.envelope import new_turn
from schemas.errors import DeadlineExceeded, KikiError, Refused, StageFailed
from schemas.events import QueryReceived
from schemas.findings import TokenLogprob
from tests.runtime.facade.scripted import MODELS, Script, answer_event, recall_event, routed_event

TOKENS = tuple(TokenLogprob(token=text, logprob=-1.0) for text in ("Hm", "Par", "is"))


class Stream:
    """Writes a stream of a scripted answer."""

    def __init__(self, script: Script) -> None:
        body = ResponseRequest(model="micro-kiki-fast", input="What?", include=["message.output_text.logprobs"])
        self.request, terms = check_response(body, "What?", (), models=MODELS, settings=FacadeSettings())
        self.dialect = ResponseDialect(self.request, terms)
        question = QueryReceived(envelope=new_turn(tenant="ann", timeout=9), query=self.request.query)
        self.answer = answer_event(recall_event(routed_event(question)), script)
        self._data = self.dialect.begin(Beginning(envelope=question.envelope))

    def text(self, kind: Any, text: str, *tokens: TokenLogprob) -> None:
        self._data += self.dialect.text(kind, text, tokens, 0)

    def finish(self) -> list[dict[str, Any]]:
        (choice,) = response.choices(self.answer, self.request)
        self._data += self.dialect.finish(choice, self.answer) + self.dialect.end(self.answer)
        return self.read()

    def fail(self, error: KikiError) -> list[dict[str, Any]]:
        self._data += self.dialect.fail(error)
        return self.read()

    def read(self) -> list[dict[str, Any]]:
        blocks = self._data.decode().strip().split("\n\n")
        events = [json.loads(block.split("\ndata: ")[1]) for block in blocks]
        assert [event["sequence_number"] for event in events] == list(range(len(events)))
        return events


def kinds(events: list[dict[str, Any]]) -> list[str]:
    return [event["type"].removeprefix("response.") for event in events]


def test_an_empty_answer_is_an_empty_message() -> None:
    stream = Stream(Script(text=""))
    whole = stream.dialect.whole(stream.answer)
    events = stream.finish()
    assert events[-1]["response"] == whole
    (message,) = whole["output"]
    assert message["content"] == [{"type": "output_text", "text": "", "annotations": [], "logprobs": []}]
    assert kinds(events)[2:] == [
        "output_item.added",
        "content_part.added",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]


def test_the_probabilities_of_reasoning_come_with_the_message() -> None:
    stream = Stream(Script(text="Paris", reasoning="Hm", logprobs=TOKENS))
    stream.text("reasoning", "Hm", TOKENS[0])
    stream.text("content", "", TOKENS[1])
    stream.text("content", "Paris", TOKENS[2])
    events = stream.finish()
    deltas = [event for event in events if event["type"] == "response.output_text.delta"]
    assert [[token["token"] for token in event["logprobs"]] for event in deltas] == [["Hm", "Par", "is"]]
    message = events[-1]["response"]["output"][-1]
    assert [token["token"] for token in message["content"][0]["logprobs"]] == ["Hm", "Par", "is"]


def test_reasoning_that_comes_after_the_message_began_is_left_out() -> None:
    stream = Stream(Script(text="Paris is it.", reasoning="Hm"))
    stream.text("content", "Paris ")
    stream.text("reasoning", "Hm")
    stream.text("content", "is it.")
    events = stream.finish()
    (message,) = events[-1]["response"]["output"]
    assert message["content"][0]["text"] == "Paris is it."
    assert kinds(events).count("output_item.added") == 1
    assert message["id"] == stream.dialect.whole(stream.answer)["output"][-1]["id"]


def test_calls_without_text_have_no_message() -> None:
    calls = (ToolCall(id="c1", name="look", arguments="{}"), ToolCall(id="c2", name="look", arguments="{}"))
    stream = Stream(Script(text="", tool_calls=calls))
    stream.text("content", "", *TOKENS)
    events = stream.finish()
    assert [item["call_id"] for item in events[-1]["response"]["output"]] == ["c1", "c2"]
    assert len({item["id"] for item in events[-1]["response"]["output"]}) == 2
    assert events[-1]["response"] == stream.dialect.whole(stream.answer)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (StageFailed("it broke."), "server_error"),
        (DeadlineExceeded("too late."), "server_error"),
        (Refused("too many."), "rate_limit_exceeded"),
        (StageFailed("too long.", code="context_length_exceeded", param="messages"), "context_length_exceeded"),
        (StageFailed("a bad schema.", code="invalid_request", param="response_format"), "invalid_prompt"),
    ],
)
def test_a_failure_is_an_error_and_a_failed_response(error: KikiError, code: str) -> None:
    stream = Stream(Script())
    stream.text("content", "Par")
    *_, raised, failed = stream.fail(error)
    assert (raised["type"], raised["code"], raised["message"]) == ("error", error.code, error.message)
    assert raised["error"]["code"] == error.code
    assert raised["param"] not in ("messages", "response_format")
    assert (failed["response"]["status"], failed["response"]["error"]["code"]) == ("failed", code)
    (message,) = failed["response"]["output"]
    assert (message["status"], message["content"][0]["text"]) == ("incomplete", "Par")
