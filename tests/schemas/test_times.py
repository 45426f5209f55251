"""Times in requests: what is no time is refused, by the sender or by the reader, and never taken for no bound."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from schemas.codec import decode, encode
from schemas.errors import InvalidEvent, InvalidInput, StageFailed
from schemas.memory import SearchRequest, SleepRequest
from schemas.numbers import LAST_TIME
from schemas.router import RouteRequest
from schemas.services import Selection, TrimRequest

BUILDERS: dict[str, Callable[[float], msgspec.Struct]] = {
    "as_of": lambda at: SearchRequest(tenant="ann", vector=(1.0,), as_of=at),
    "before": lambda at: SleepRequest(before=at),
    "since": lambda at: Selection(since=at),
    "until": lambda at: Selection(until=at),
}


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("at", [float("nan"), float("inf"), float("-inf")])
def test_a_time_that_is_not_finite_cannot_be_sent(name: str, at: float) -> None:
    with pytest.raises(InvalidInput) as error:
        BUILDERS[name](at)
    assert error.value.param == name
    for build in (lambda: TrimRequest(before=at), lambda: RouteRequest(prompts=("x",), threshold=at)):
        with pytest.raises(InvalidInput):
            build()


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("value", [b"NaN", b"Infinity", b"-1", b"1e300", b"1e999", b"1772000000000", b'"2026-03-01"'])
def test_a_time_out_of_range_is_refused_by_the_reader(name: str, value: bytes) -> None:
    request = BUILDERS[name](1.0)
    with pytest.raises(InvalidEvent) as error:
        decode(
            type(request),
            encode(request).replace(b":1.0,", b":" + value + b",", 1).replace(b":1.0}", b":" + value + b"}"),
        )
    assert error.value.param == name


@pytest.mark.parametrize("name", BUILDERS)
@pytest.mark.parametrize("at", [0.0, 1.5, LAST_TIME])
def test_a_time_in_range_is_read(name: str, at: float) -> None:
    request = BUILDERS[name](at)
    assert decode(type(request), encode(request)) == request


@pytest.mark.parametrize("limit", [0, -1, 101, 1e300, 1.5, None])
def test_a_limit_out_of_range_is_refused(limit: Any) -> None:
    body = {"tenant": "ann", "vector": [1.0], "limit": limit}
    with pytest.raises(InvalidEvent) as error:
        decode(SearchRequest, msgspec.json.encode(body))
    assert error.value.param == "limit"


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_vector_with_a_number_that_is_none_is_refused(number: float) -> None:
    with pytest.raises(StageFailed, match="vector") as error:
        encode(SearchRequest(tenant="ann", vector=(1.0, number)))
    assert error.value.param is not None
    assert error.value.param.startswith("vector")
