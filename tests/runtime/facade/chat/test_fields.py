"""Fields of a body that its structs do not have: passed over and counted, or refused by name."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bus import metrics
from runtime.facade.chat.fields import NEUTRAL, decode_body
from runtime.facade.chat.request import ChatRequest, Extension
from schemas.errors import InvalidInput
from tests.runtime.facade.scripted import chat_body

USER = {"role": "user", "content": "hi"}
UNKNOWN: list[tuple[dict[str, Any], str]] = [
    ({"surprise": 1}, "surprise"),
    ({"messages": [USER | {"mood": "x"}]}, "messages[0].mood"),
    ({"stream_options": {"chunk_size": 4}}, "stream_options.chunk_size"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {}, "draft": 7}}},
        "response_format.json_schema.draft",
    ),
]


def count_unknown() -> float:
    return metrics.REGISTRY.get_sample_value("kiki_degraded_total", {"path": "facade.unknown_field"}) or 0.0


def read(fields: dict[str, Any], *, strict: bool) -> ChatRequest:
    return decode_body(ChatRequest, msgspec.json.encode(chat_body(**fields)), strict=strict)


@pytest.mark.parametrize(("fields", "name"), UNKNOWN, ids=str)
def test_an_unknown_field_is_counted_and_in_strict_mode_refused(fields: dict[str, Any], name: str) -> None:
    before = count_unknown()
    read(fields, strict=False)
    assert count_unknown() == before + 1
    with pytest.raises(InvalidInput) as refusal:
        read(fields, strict=True)
    assert refusal.value.param == name
    assert name in refusal.value.message


@pytest.mark.parametrize("name", sorted(NEUTRAL))
def test_a_neutral_field_passes_anywhere_and_is_not_counted(name: str) -> None:
    before = count_unknown()
    value = {"type": "ephemeral"}
    part = {"type": "text", "text": "hi", name: value}
    function = {"name": "f", "parameters": {"type": "object", "properties": {}}, name: value}
    read(
        {
            name: value,
            "messages": [USER | {"content": [part], name: value}],
            "tools": [{"type": "function", "function": function, name: value}],
            "stream_options": {name: value},
        },
        strict=True,
    )
    assert count_unknown() == before


def test_the_field_of_this_project_is_checked_by_name() -> None:
    with pytest.raises(InvalidInput) as refusal:
        read({"kiki": {"levle": "raw"}}, strict=False)
    assert refusal.value.param == "kiki.levle"


def test_the_page_names_every_field() -> None:
    page = (Path(__file__).parents[4] / "docs" / "http.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z_]+)`", page))
    assert named >= NEUTRAL
    assert set(ChatRequest.__struct_fields__) <= named
    assert set(Extension.__struct_fields__) <= named
