"""The fields of a request's body: decoded as lenient peers do, with those that nobody knows counted or refused.

Fields that cannot change an answer for the worse are passed over at any depth (:data:`NEUTRAL`). Any other field
that the request's structs do not have is passed over, too, and counted; with the setting ``strict_fields`` it is
refused by name.
"""

import types
from collections.abc import Iterator
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import Struct

from bus import metrics
from schemas.base import UNREADABLE
from schemas.codec import field_of
from schemas.errors import InvalidInput

S = TypeVar("S", bound=Struct)

NEUTRAL = frozenset(
    {
        "allowed_callers",
        "annotations",
        "betas",
        "budget_tokens",
        "cache_control",
        "cache_prompt",
        "caller",
        "citations",
        "compaction",
        "context_management",
        "defer_loading",
        "diagnostics",
        "eager_input_streaming",
        "extra_headers",
        "id",
        "id_slot",
        "include_obfuscation",
        "include_reasoning",
        "index",
        "inference_geo",
        "input_examples",
        "num_retries",
        "obfuscation",
        "prediction",
        "prompt_cache_key",
        "prompt_cache_retention",
        "provider_specific_fields",
        "raw_mode",
        "reasoning",
        "reasoning_content",
        "reasoning_details",
        "return_progress",
        "service_tier",
        "skip_special_tokens",
        "signature",
        "spaces_between_special_tokens",
        "speed",
        "strict",
        "strip_thinking",
        "task_budget",
        "thinking_blocks",
        "timings_per_token",
        "title",
        "verbosity",
    }
)
"""Fields that are passed over wherever they stand: hints, ids, and what clients echo of an earlier answer."""


def decode_body(kind: type[S], data: bytes, *, strict: bool = False, code: str = "invalid_request") -> S:
    """A request's JSON as a struct. Numbers are read as peers do: 4.0 is 4, and "4" is, too.

    ``strict``: a field that is neither the struct's nor neutral is refused.

    Raises:
        InvalidInput: it is not JSON, or a field is wrong (then with ``code``); ``param`` names the field.
    """
    try:
        body = msgspec.json.decode(data)
    except UNREADABLE as error:
        raise InvalidInput(f"the body is not valid JSON: {error}.") from error
    request = convert_body(body, kind, code=code)
    unknown = [name for name in find_unknown(body, kind) if name.rsplit(".", 1)[-1] not in NEUTRAL]
    if unknown and strict:
        raise InvalidInput(f"'{unknown[0]}' is not a field of this request: leave it out.", code=code, param=unknown[0])
    for name in unknown:
        metrics.count_degraded("facade.unknown_field", f"'{name}' is passed over")
    return request


def convert_body(body: Any, kind: type[S], *, where: str = "", code: str = "invalid_request") -> S:
    """Decoded JSON as a struct; ``where`` is its place in the request.

    Raises:
        InvalidInput: a field is wrong; ``param`` names it.
    """
    try:
        return msgspec.convert(body, kind, strict=False)
    except (msgspec.ValidationError, RecursionError) as error:
        field = field_of(str(error))
        param = f"{where}.{field}" if where and field else where or field
        subject = f"'{where}'" if where else "the body"
        raise InvalidInput(f"{subject} is refused: {error}.", code=code, param=param) from error


def find_unknown(value: Any, kind: Any, path: str = "") -> Iterator[str]:
    """The fields of decoded JSON that the struct, or a struct inside of it, does not have, by their paths."""
    match value:
        case dict():
            for struct in _structs_of(kind):
                known = _fields_of(struct)
                for name, item in value.items():
                    place = f"{path}.{name}" if path else name
                    if name in known:
                        yield from find_unknown(item, known[name], place)
                    else:
                        yield place
        case list():
            items = _item_kind(kind)
            for index, item in enumerate(value if items is not None else ()):
                yield from find_unknown(item, items, f"{path}[{index}]")


@cache
def _fields_of(struct: type[Struct]) -> dict[str, Any]:
    return {field.encode_name: field.type for field in msgspec.structs.fields(struct)}


def _structs_of(kind: Any) -> list[type[Struct]]:
    return [option for option in _options(kind) if isinstance(option, type) and issubclass(option, Struct)]


def _item_kind(kind: Any) -> Any:
    return next((get_args(option)[0] for option in _options(kind) if get_origin(option) in (list, tuple)), None)


def _options(kind: Any) -> tuple[Any, ...]:
    """The types that a type may be: the members of a union, or itself; annotations are taken off."""
    if hasattr(kind, "__metadata__"):
        return _options(get_args(kind)[0])
    if get_origin(kind) in (Union, types.UnionType):
        return tuple(option for member in get_args(kind) for option in _options(member))
    return (kind,)
