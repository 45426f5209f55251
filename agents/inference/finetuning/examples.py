"""Reads the examples that an adapter is trained on: JSON lines of one form, checked line by line.

A line is a conversation (``{"messages": [{"role": ..., "content": ...}, ...]}``), a question with its answer
(``{"prompt": ..., "completion": ...}``) or a text (``{"text": ...}``). All lines of a file have the form of its first.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FILES = ("train", "valid", "test")
"""Names of the files of a data set, without ``.jsonl``. Only the first must be there."""

ROLES = ("system", "user", "assistant", "tool")
FORMS: dict[str, tuple[str, ...]] = {
    "messages": ("messages",),
    "prompt and completion": ("prompt", "completion"),
    "text": ("text",),
}
"""The forms of a line, with the keys that make it."""


@dataclass(frozen=True)
class ExampleFile:
    """One file: its examples by line number, the form of them, and what is wrong with it, a line for each fault."""

    path: Path
    form: str
    examples: dict[int, dict[str, Any]]
    faults: tuple[str, ...]


def read_example_file(path: Path) -> ExampleFile:
    """Read and check a file; what is wrong is in its ``faults``, each with file and line number. Empty lines count
    for nothing."""
    examples: dict[int, dict[str, Any]] = {}
    faults: list[str] = []
    form = ""
    try:
        for number, line in _lines(path):
            try:
                example = json.loads(line)
            except ValueError as error:
                faults.append(f"{path}:{number}: it is no JSON ({error})")
                continue
            form = form or _form_of(example)
            if fault := _find_fault(example, form):
                faults.append(f"{path}:{number}: {fault}")
            else:
                examples[number] = example
    except (OSError, UnicodeDecodeError) as error:
        faults.append(f"{path}: it cannot be read ({error})")
    if not examples and not faults:
        faults.append(f"{path}: it is empty: expected one example a line")
    return ExampleFile(path, form, examples, tuple(faults))


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line


def _form_of(example: object) -> str:
    if not isinstance(example, dict):
        return ""
    return next((form for form, keys in FORMS.items() if all(key in example for key in keys)), "")


def _find_fault(example: object, form: str) -> str:
    if not isinstance(example, dict):
        return "expected an object"
    if not form or _form_of(example) != form:
        expected = f"{form}, as the first line has" if form else " or ".join(FORMS)
        return f"expected {expected}; its keys are {', '.join(map(str, example)) or 'none'}"
    if form == "messages":
        return _find_message_fault(example["messages"])
    keys = (key for key in FORMS[form] if not isinstance(example[key], str) or not example[key].strip())
    return next((f"'{key}' is not a text, or an empty one" for key in keys), "")


def _find_message_fault(messages: object) -> str:
    if not isinstance(messages, list) or not messages:
        return "'messages' is not a list, or an empty one"
    for place, message in enumerate(messages):
        if not isinstance(message, Mapping):
            return f"messages[{place}] is not an object"
        if (role := message.get("role")) not in ROLES:
            return f"messages[{place}].role is {role!r}: expected {', '.join(ROLES)}"
        if role == "system" and place:
            return f"messages[{place}].role is 'system', which only the first message may be"
        if not isinstance(message.get("content"), str) and not message.get("tool_calls"):
            return f"messages[{place}].content is not a text"
    if messages[-1]["role"] != "assistant":
        return f"the last message is of '{messages[-1]['role']}': expected the assistant's answer, which is learnt"
    if not messages[-1].get("tool_calls") and not messages[-1]["content"].strip():
        return "the last message, the answer that is learnt, is empty"
    return ""
