"""``kiki ask`` shows text as it comes, and before it what a full turn waits for; a pipe gets the answer alone."""

import io
import json
import threading
from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from rich.console import Console

from runtime.cli import out, turns
from schemas.envelope import PERSON
from schemas.errors import InvalidInput, KikiError

pytestmark = pytest.mark.anyio

FULL = [": stage router 95 ms", ": stage memory 12 ms", ": working", ": stage inference 3810 ms"]


def chunk(**delta: Any) -> str:
    return "data: " + json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})


async def print_reply(
    lines: Sequence[str], monkeypatch: pytest.MonkeyPatch, *, is_terminal: bool, pause: float = 0.0
) -> tuple[str, list[str]]:
    """Print a reply whose ``lines`` come after a ``pause`` each; returns its text, and what was printed before each
    line and at the end."""
    file = io.StringIO()
    monkeypatch.setattr(turns, "out", Console(file=file, force_terminal=is_terminal, width=100))
    printed: list[str] = []

    async def send() -> AsyncIterator[bytes]:
        for line in lines:
            await anyio.sleep(pause)
            printed.append(file.getvalue())
            yield f"{line}\n\n".encode()

    response = httpx.Response(200, content=send())
    text = "".join([piece async for piece in turns._print_pieces(response)])
    return text, [*printed, file.getvalue()]


@pytest.mark.parametrize("is_terminal", [True, False])
async def test_text_is_printed_before_more_of_it_comes(monkeypatch: pytest.MonkeyPatch, is_terminal: bool) -> None:
    lines = [chunk(role="assistant", content=""), chunk(content="Par"), chunk(content="is."), "data: [DONE]"]
    text, printed = await print_reply(lines, monkeypatch, is_terminal=is_terminal)
    assert text == "Paris."
    assert ["Par" in output for output in printed] == [False, False, True, True, True]
    assert printed[-1].endswith("Paris.\n")


async def test_a_full_turn_shows_on_a_terminal_what_it_waits_for(monkeypatch: pytest.MonkeyPatch) -> None:
    _, printed = await print_reply([*FULL, chunk(content="Paris.")], monkeypatch, is_terminal=True, pause=0.3)
    assert "asking" in printed[0]
    assert "waiting for inference (router 0.1 s, memory 0.0 s)" in printed[3]
    assert "waiting for negotiator" in printed[4]
    assert "Paris." not in printed[4]
    assert printed[-1].endswith("Paris.\n")


async def test_a_pipe_gets_the_answer_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    _, printed = await print_reply([*FULL, chunk(content="Paris.")], monkeypatch, is_terminal=False)
    assert printed[-2:] == ["", "Paris.\n"]


async def test_an_error_in_the_middle_ends_the_text(monkeypatch: pytest.MonkeyPatch) -> None:
    error = "data: " + json.dumps({"error": {"message": "too late", "code": "deadline_exceeded"}})
    with pytest.raises(KikiError, match="too late"):
        await print_reply([*FULL, error], monkeypatch, is_terminal=True)


def test_progress_names_the_next_stage_and_what_the_others_took() -> None:
    assert turns._describe_progress({}) == "asking"
    router = turns._describe_progress({"router": 0.095, "memory": 0.012})
    assert router == "waiting for inference (router 0.1 s, memory 0.0 s)"
    ended = dict.fromkeys(("router", "memory", "inference", "catfish", "negotiator", "antibias"), 1.0)
    assert turns._describe_progress(ended).startswith("waiting for the answer (")


@pytest.mark.parametrize("session", [None, "cellar"])
def test_a_chat_sends_its_own_history_or_names_the_session_whose_history_it_wants(
    monkeypatch: pytest.MonkeyPatch, session: str | None
) -> None:
    lines = iter(["I have 21 apples.", "Double that.", ""])
    monkeypatch.setattr(out, "input", lambda _: next(lines))
    requests: list[tuple[list[str], str | None, str]] = []

    async def answer(
        _: Any, messages: list[dict[str, str]], __: str, session_id: str | None, history: str, user: str
    ) -> Any:
        assert user == PERSON
        requests.append(([message["content"] for message in messages], session_id, history))
        return "Noted.", "turn"

    monkeypatch.setattr(turns, "_print_answer", answer)
    thread = threading.Thread(target=partial(turns.chat, session=session))  # in which no event loop has been begun
    thread.start()
    thread.join()
    prompts = [request[0] for request in requests]
    (session_id,) = {request[1] for request in requests}
    if session is None:
        assert prompts == [["I have 21 apples."], ["I have 21 apples.", "Noted.", "Double that."]]
        assert session_id
    else:
        assert prompts == [["I have 21 apples."], ["Double that."]]
        assert session_id == "cellar"
    assert {request[2] for request in requests} == {"session" if session else "none"}


def test_route_reads_prompts_and_conversations_from_a_file(tmp_path: Path) -> None:
    lines = [
        {"prompt": "a"},
        {"query": "b", "top_k": 1},
        {"messages": [{"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}]},
        {"prompt": "e"},
    ]
    file = tmp_path / "lines.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    requests = turns._join_prompts(turns._read_prompts(file))
    assert [request.prompts for request in requests] == [("a", "b"), (), ("e",)]
    assert [message.role for message in requests[1].messages] == ["user", "assistant"]


@pytest.mark.parametrize(
    ("line", "param"),
    [
        ("{}", "prompt"),
        ('{"prompt": "a", "messages": []}', "prompt"),
        ('{"messages": []}', "messages"),
        ('{"messages": [{"role": "assistant", "content": "a"}]}', "messages"),
        ('{"prompt": 3}', "prompt"),
        ("no json", "prompt"),
    ],
)
def test_route_names_a_line_that_it_cannot_read(tmp_path: Path, line: str, param: str) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_text(f'{{"prompt": "a"}}\n{line}\n', encoding="utf-8")
    with pytest.raises(InvalidInput, match="line 2") as refusal:
        turns._read_prompts(file)
    assert refusal.value.param == param
