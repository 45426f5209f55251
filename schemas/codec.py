"""JSON bytes to structs and back, with errors that name the field."""

import json
import math
import re
from functools import cache
from typing import Any, TypeVar

import msgspec

from schemas.base import UNREADABLE
from schemas.envelope import SCHEMA_VERSION, Envelope
from schemas.errors import InvalidEvent, InvalidInput, StageFailed
from schemas.upcast import upcast

S = TypeVar("S", bound=msgspec.Struct)

_encoder = msgspec.json.Encoder()
_FIELD = re.compile(r"`\$\.?(?P<path>[^`]*)`")
_UNKNOWN = re.compile(r"unknown field `(?P<name>[^`]+)`")
_MISSING = re.compile(r"missing required field `(?P<name>[^`]+)`")


class _EventHead(msgspec.Struct, frozen=True):
    """The part of an event that says whose it is; the rest is skipped."""

    envelope: Envelope


@cache
def _decoder(kind: type[S]) -> msgspec.json.Decoder[S]:
    return msgspec.json.Decoder(kind)


def encode(value: msgspec.Struct) -> bytes:
    """The struct as JSON in UTF-8, checked as its readers will check it.

    A struct is not checked when it is made, and NaN would be written as null.

    Raises:
        StageFailed: a reader would refuse it or read something else; ``param`` names the field.
    """
    data = _encoder.encode(value)
    kind = type(value)
    try:
        read = _decoder(kind).decode(data)
    except msgspec.ValidationError as error:
        reason, param = str(error), field_of(str(error))
    else:
        if read == value:
            return data
        param = find_non_finite(msgspec.to_builtins(value))
        if param is None and _encoder.encode(read) == data:
            return data  # a list in place of a tuple, a dict in place of a struct: readers see no difference
        reason = f"{param or 'a field'} is not what its type says"
    raise StageFailed(f"{kind.__name__} cannot be published: {reason}.", code="internal_error", param=param)


def decode(kind: type[S], data: bytes) -> S:
    """Decode and validate; an event of an older version is brought up to this one.

    Raises:
        InvalidEvent: not JSON, a newer schema version, or a field that is wrong; ``param`` names the field.
    """
    try:
        value: S = _decoder(kind).decode(data)
    except InvalidInput as error:
        raise InvalidEvent(f"{kind.__name__}: {error.message}", param=error.param) from error
    except msgspec.ValidationError as error:
        return _decode_older(kind, data, error)
    except UNREADABLE as error:
        if (path := find_non_finite(_load_any(data))) is not None:
            raise InvalidEvent(f"{kind.__name__}: {path} is not a number that JSON has.", param=path) from error
        raise InvalidEvent(f"{kind.__name__}: the body is not valid JSON ({error}).") from error
    envelope = getattr(value, "envelope", None)
    if isinstance(envelope, Envelope) and envelope.schema_version < SCHEMA_VERSION:
        return _decode_older(kind, data, None)
    return value


def decode_envelope(data: bytes) -> Envelope | None:
    """The envelope of an event of this version, whatever the rest of the event is; None when it cannot be read."""
    try:
        head: _EventHead = _decoder(_EventHead).decode(data)
    except UNREADABLE:
        return None
    return head.envelope


def _decode_older(kind: type[S], data: bytes, error: msgspec.ValidationError | None) -> S:
    """Decode the event of an older version, upcast to this one; ``error`` is why it does not decode as it is."""
    if (newer := upcast(data)) is not None:
        try:
            value: S = _decoder(kind).decode(newer)
            return value
        except InvalidInput as refusal:
            raise InvalidEvent(f"{kind.__name__}: {refusal.message}", param=refusal.param) from refusal
        except msgspec.ValidationError as upcast_error:
            error = upcast_error
    raise InvalidEvent(
        f"{kind.__name__}: {error}. This reader knows schema version {SCHEMA_VERSION}.", param=field_of(str(error))
    ) from error


def _load_any(data: bytes) -> Any:
    """The JSON text with the NaN and infinities that some writers emit; None when it is no JSON even so."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


def find_non_finite(value: Any) -> str | None:
    """The path of the first NaN or infinity in built-in types; None if there is none."""
    waiting: list[tuple[str, Any]] = [("", value)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, float) and not math.isfinite(value):
            return path
        if isinstance(value, dict):
            waiting += [(f"{path}.{name}" if path else name, part) for name, part in reversed(value.items())]
        elif isinstance(value, list | tuple):
            waiting += [(f"{path}[{index}]", part) for index, part in reversed([*enumerate(value)])]
    return None


def field_of(text: str) -> str | None:
    """The dotted path of the field that a msgspec validation message names; None when it names none."""
    path = match.group("path") if (match := _FIELD.search(text)) else ""
    name_match = _UNKNOWN.search(text) or _MISSING.search(text)
    if name_match:
        return f"{path}.{name_match.group('name')}" if path else name_match.group("name")
    return path or None
