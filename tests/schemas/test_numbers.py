"""Numbers in requests: each has a range, so that none overflows where it is used."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from msgspec import inspect

from schemas.calls import SERVICES, TENANT_SERVICES
from schemas.chat import Sampling
from schemas.codec import decode
from schemas.errors import InvalidEvent
from schemas.events import InferDone, InferToken
from schemas.findings import Query
from schemas.flow import STACKS, FlowPublishRequest
from schemas.jobs import Job, JobResult
from schemas.services import FetchRequest, MarkRequest, Selection, TrimRequest

REQUESTS = sorted({Query, Job, *(service.request for service in (*SERVICES, *TENANT_SERVICES))}, key=str)
UNBOUNDED = {"Job.envelope.deadline"}
"""What has no range: a deadline is capped where it is read."""


def find_unbounded(kind: Any, path: str, seen: frozenset[Any] = frozenset()) -> Iterator[str]:
    """Paths of the numbers that have no lower or no upper bound."""
    if isinstance(kind, inspect.IntType | inspect.FloatType):
        if (kind.ge is None and kind.gt is None) or (kind.le is None and kind.lt is None):
            yield path
    elif isinstance(kind, inspect.StructType):
        if kind.cls not in seen:
            for field in kind.fields:
                yield from find_unbounded(field.type, f"{path}.{field.name}", seen | {kind.cls})
    elif isinstance(kind, inspect.UnionType):
        for part in kind.types:
            yield from find_unbounded(part, path, seen)
    elif isinstance(kind, inspect.VarTupleType | inspect.ListType):
        yield from find_unbounded(kind.item_type, f"{path}[]", seen)
    elif isinstance(kind, inspect.TupleType):
        for part in kind.item_types:
            yield from find_unbounded(part, f"{path}[]", seen)
    elif isinstance(kind, inspect.DictType):
        yield from find_unbounded(kind.value_type, f"{path}{{}}", seen)


@pytest.mark.parametrize("request_type", REQUESTS, ids=lambda kind: kind.__name__)
def test_every_number_of_a_request_has_a_range(request_type: type[msgspec.Struct]) -> None:
    assert {*find_unbounded(inspect.type_info(request_type), request_type.__name__)} <= UNBOUNDED


@pytest.mark.parametrize("kind", [InferDone, JobResult, InferToken])
def test_a_log_probability_on_the_wire_has_a_range(kind: type[msgspec.Struct]) -> None:
    unbounded = find_unbounded(inspect.type_info(kind), kind.__name__)
    assert [path for path in unbounded if "logprob" in path or "scores" in path] == []


@pytest.mark.parametrize(
    "sampling",
    [
        *('{"repetition_penalty": 1e-40}', '{"repetition_penalty": 0}', '{"repetition_penalty": 2.1}'),
        *('{"presence_penalty": -2.1}', '{"frequency_penalty": 1e30}', '{"logit_bias": {"1": 1e30}}'),
        *('{"temperature": -1e-40}', '{"temperature": NaN}', '{"temperature": 1e999}', '{"temperature": null}'),
        *('{"top_p": 0}', '{"top_p": 1.1}', '{"min_p": -1e-300}', '{"min_p": 2}', '{"top_k": 1e30}', '{"top_k": -1}'),
        *('{"seed": 9223372036854775808}', '{"seed": -1}', '{"seed": 1e400}', '{"max_tokens": 0}'),
        '{"max_tokens": %s}' % ("9" * 400),
        '{"top_logprobs": 21}',
    ],
)
def test_sampling_that_would_overflow_is_refused_on_the_bus(sampling: str) -> None:
    with pytest.raises(InvalidEvent):
        decode(Sampling, sampling.encode())


@pytest.mark.parametrize("value", [b"1e300", b"1e999", b"-1e18", b"1795915387000", b"1" * 400])
@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (TrimRequest, b'{"before":%s}'),
        (Selection, b'{"since":%s}'),
        (Selection, b'{"until":%s}'),
        (FetchRequest, b'{"name":"a","limit":%s}'),
    ],
)
def test_a_number_out_of_its_range_is_refused_by_name(kind: type[msgspec.Struct], body: bytes, value: bytes) -> None:
    with pytest.raises(InvalidEvent):
        decode(kind, body % value)


def test_advice_that_would_overflow_is_refused_by_its_field() -> None:
    weights = b",".join([b"1e308"] * STACKS)
    with pytest.raises(InvalidEvent) as refusal:
        decode(FlowPublishRequest, b'{"tau":1.0,"stack_weights":[%s]}' % weights)
    assert refusal.value.param == "stack_weights[0]"
    for body in (b'{"tau":1e308,"state_summary":{"a":1.0}}', b'{"tau":1.0,"state_summary":{"a":[1e308]}}'):
        with pytest.raises(InvalidEvent):
            decode(FlowPublishRequest, body)


def test_an_id_that_no_stream_has_is_refused() -> None:
    for number in (2**53, 2**63, 2**64, 10**30):
        with pytest.raises(InvalidEvent):
            decode(MarkRequest, b'{"name":"a","ids":[%d],"de_id":"x"}' % number)
        with pytest.raises(InvalidEvent):
            decode(Selection, b'{"from_seq":%d}' % number)
