"""Examples: the three forms, and what is wrong in a file, each with its line."""

import json
from pathlib import Path

import pytest

from agents.inference.finetuning.examples import read_example_file

CHAT = {"messages": [{"role": "user", "content": "Hi?"}, {"role": "assistant", "content": "Hello."}]}


def write(folder: Path, *lines: object) -> Path:
    path = folder / "train.jsonl"
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines))
    return path


@pytest.mark.parametrize(
    ("example", "form"),
    [
        (CHAT, "messages"),
        ({"prompt": "Hi?", "completion": "Hello."}, "prompt and completion"),
        ({"text": "Hello."}, "text"),
    ],
)
def test_a_form_is_recognised_and_empty_lines_count_for_nothing(
    tmp_path: Path, example: dict[str, object], form: str
) -> None:
    file = read_example_file(write(tmp_path, "", example, "  ", example))
    assert (file.form, file.faults, file.examples) == (form, (), {2: example, 4: example})


def chat(*messages: object) -> dict[str, object]:
    return {"messages": list(messages)}


QUESTION = {"role": "user", "content": "Hi?"}


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("{not json", "it is no JSON"),
        ("[1]", "expected an object"),
        ({"messages": []}, "'messages' is not a list, or an empty one"),
        ({"question": "Hi?"}, "expected messages, as the first line has; its keys are question"),
        ({"prompt": "Hi?", "completion": "Hello."}, "expected messages, as the first line has"),
        (chat("Hi?"), "messages[0] is not an object"),
        (chat({"role": "bot", "content": "Hi"}), "messages[0].role is 'bot'"),
        (chat(QUESTION, {"role": "system", "content": "Be kind."}), "messages[1].role is 'system'"),
        (chat(QUESTION, {"role": "assistant", "content": 3}), "messages[1].content is not a text"),
        (chat(QUESTION), "the last message is of 'user'"),
        (chat(QUESTION, {"role": "assistant", "content": " "}), "the answer that is learnt, is empty"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: object, fault: str) -> None:
    path = write(tmp_path, CHAT, line, CHAT)
    file = read_example_file(path)
    (only,) = file.faults
    assert only.startswith(f"{path}:2: ")
    assert fault in only
    assert list(file.examples) == [1, 3]


def test_an_answer_that_calls_a_tool_needs_no_text(tmp_path: Path) -> None:
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}
    assert read_example_file(write(tmp_path, chat(QUESTION, call))).faults == ()


@pytest.mark.parametrize("key", ["prompt", "completion"])
def test_a_text_that_is_none_is_named_by_its_key(tmp_path: Path, key: str) -> None:
    file = read_example_file(write(tmp_path, {"prompt": "Hi?", "completion": "Hello."} | {key: ""}))
    assert f"'{key}' is not a text" in file.faults[0]


def test_an_empty_an_absent_and_a_binary_file_are_named(tmp_path: Path) -> None:
    assert "it is empty" in read_example_file(write(tmp_path, "")).faults[0]
    assert "it cannot be read" in read_example_file(tmp_path / "absent.jsonl").faults[0]
    (tmp_path / "train.jsonl").write_bytes(b"\xff\xfe\n")
    assert "it cannot be read" in read_example_file(tmp_path / "train.jsonl").faults[0]
