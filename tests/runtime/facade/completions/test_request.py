"""Bodies of text completions: their prompts, what is the same as in a chat, and what is refused by name."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from runtime.facade import FacadeSettings
from runtime.facade.completions.request import CheckedCompletion, CompletionRequest, check_completion
from schemas.chat import MAX_TOKENS
from schemas.errors import InvalidInput
from schemas.findings import Query
from tests.runtime.facade.scripted import MODELS


def check(**fields: Any) -> CheckedCompletion:
    body = msgspec.convert({"model": "micro-kiki", "prompt": "Once", **fields}, CompletionRequest, strict=False)
    return check_completion(body, models=MODELS, settings=FacadeSettings())


def query(**fields: Any) -> Query:
    return check(**fields).first.query


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("Once", [("Once", ())]),
        ("", [("", ())]),
        (["Once", "Twice"], [("Once", ()), ("Twice", ())]),
        ([1, 2, 3], [("", (1, 2, 3))]),
        ([[1, 2], [3]], [("", (1, 2)), ("", (3,))]),
        (["Once", [4, 0]], [("Once", ()), ("", (4, 0))]),
    ],
)
def test_each_prompt_is_a_turn_of_its_own(prompt: Any, prompts: list[Any]) -> None:
    queries = [turn.query for turn in check(prompt=prompt, echo=True).turns]
    assert [
        (query.messages[0].content, query.continuation.tokens) for query in queries if query.continuation
    ] == prompts
    assert all(query.continuation and query.continuation.echo for query in queries)


@pytest.mark.parametrize("model", ["micro-kiki", "micro-kiki-fast", "kiki-meta-reasoning"])
def test_the_level_is_raw_and_nothing_is_reasoned(model: str) -> None:
    checked = check(model=model).first
    assert (checked.query.level, checked.level, checked.stepped_down) == ("raw", "raw", None)
    assert (checked.query.thinking, checked.thinking) == (False, False)


@pytest.mark.parametrize(("asked", "given"), [(None, 16), (5, 5), (0, 1), (-1, MAX_TOKENS), (100_000, 100_000)])
def test_a_completion_has_its_length(asked: int | None, given: int) -> None:
    completion = check(max_tokens=asked)
    assert completion.first.query.sampling.max_tokens == given
    assert completion.text == (asked != 0)


@pytest.mark.parametrize(("asked", "given"), [(None, (False, 0)), (0, (True, 0)), (5, (True, 5))])
def test_logprobs_are_a_number(asked: int | None, given: tuple[bool, int]) -> None:
    sampling = query(logprobs=asked).sampling
    assert (sampling.logprobs, sampling.top_logprobs) == given


def test_sampling_is_that_of_a_chat() -> None:
    sampling = query(
        temperature=0.5, top_p=0, top_k=-1, min_p=0.1, stop=["a", ""], logit_bias={"5": 1}, presence_penalty=1,
        frequency_penalty=-1, repetition_penalty=1.1, response_format={"type": "json_object"},
    ).sampling  # fmt: skip
    assert (sampling.temperature, sampling.top_p, sampling.top_k, sampling.min_p) == (0.0, 1.0, 0, 0.1)
    assert (sampling.stop, sampling.logit_bias) == (("a",), {"5": 1.0})
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty) == (1.0, -1.0, 1.1)
    assert sampling.json_schema == '{"type": "object"}'
    checked = check(seed=3, n=2, best_of=2, user="ann").first
    assert (checked.seed, checked.n, checked.query.candidates) == (3, 2, 2)
    assert ("user", "ann") in checked.users


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"prompt": None}, "prompt"),
    ({"prompt": []}, "prompt"),
    ({"prompt": {}}, "prompt"),
    ({"prompt": 3}, "prompt"),
    ({"prompt": ["Once", []]}, "prompt[1]"),
    ({"prompt": [1, -2]}, "prompt[0]"),
    ({"prompt": [True]}, "prompt[0]"),
    ({"prompt": [[1, "two"]]}, "prompt[0]"),
    ({"prompt": ["x"] * 33}, "prompt"),
    ({"suffix": "end"}, "suffix"),
    ({"prompt_embeds": "AAAA"}, "prompt_embeds"),
    ({"best_of": 3}, "best_of"),
    ({"best_of": 1, "n": 2}, "best_of"),
    ({"stream_options": {"include_usage": True}}, "stream_options"),
    ({"kiki": {"level": "full"}}, "kiki.level"),
    ({"kiki": {"history": "session"}}, "kiki.history"),
]


@pytest.mark.parametrize(("fields", "param"), REFUSED, ids=lambda value: str(value)[:40])
def test_an_unserved_field_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        check(**fields)
    assert refusal.value.param == param


def test_a_small_facade_takes_fewer_prompts() -> None:
    body = CompletionRequest(model="micro-kiki", prompt=["x"] * 3)
    with pytest.raises(InvalidInput, match="at most 2"):
        check_completion(body, models=MODELS, settings=FacadeSettings(max_in_flight=2))


@pytest.mark.parametrize("neutral", [{"suffix": ""}, {"best_of": 1}, {"prompt_embeds": []}, {"kiki": {"level": "raw"}}])
def test_a_neutral_value_passes(neutral: dict[str, Any]) -> None:
    assert query(**neutral).level == "raw"


def test_the_page_on_http_names_every_field() -> None:
    page = (Path(__file__).parents[4] / "docs" / "http.md").read_text(encoding="utf-8")
    assert {*CompletionRequest.__struct_fields__} <= set(re.findall(r"`([a-z_]+)`", page))
