"""Messages that are drawn at random from the contract: good ones, nearly good ones, and bytes that are none at all.

Everything follows from the document that :mod:`schemas.asyncapi.document` makes and from a seed: a subject that the
contract gains is stormed, too.
"""

import base64
import json
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

from bus.subjects import MSG_ID, Subjects
from schemas.asyncapi.document import channels, document
from schemas.calls import SERVICES
from schemas.jobs import LANES

Schema = dict[str, Any]
Body = dict[str, Any]

TURN_SECONDS = 30.0
"""Seconds until the deadline of an event whose envelope is good."""

HEAD_BYTES = 160
"""Bytes of a message that are shown of it."""

HEX, DIGITS, WORD = "0123456789abcdef", "0123456789", "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
_NESTED = "@nested@"
"""Stands for many brackets, which the encoder could not write."""

NUMBERS = (2**63 - 1, 2**63, 2**70, -(2**70), 10**300, 1e308, -1e308, 1e-308, 1795915387000, -1, -0.0, 0, 0.5, 1e18)
TEXTS = (
    "",
    " ",
    "\x00\x07\x1b",
    "line\nline\r\n",
    "\ud800",
    "tail\udc00",
    "e\u0301\u202e\u2028",
    "*",
    ">",
    "a.b",
    "/../",
)
OTHER_TYPES: tuple[Any, ...] = (None, True, 3, -2.5, "text", [], {}, [[]], {"": ""}, ["a", 1])
TOKENS = ("*", ">", "a b"[:1], "é", "x" * 300, "a*b", "%s%n", "-", "unknown")
"""Last tokens of subjects; the broker takes each of them in a publication."""

HEADERS: tuple[Mapping[str, str], ...] = (
    {"traceparent": "00-zz-zz-zz"},
    {"traceparent": "00-" + "0" * 32 + "-" + "0" * 16 + "-01", "tracestate": "=" * 600},
    {"Status": "503", "Description": "No Responders"},
    {"Status": "408", "Description": "Request Timeout"},
    {"Status": "100", "Description": "Idle Heartbeat"},
    {"Status": "404"},
    {"Nats-Service-Error": "x", "Nats-Service-Error-Code": "none"},
    {"Nats-Expected-Stream": "nowhere"},
    {"Nats-Expected-Last-Sequence": "first"},
    {"Nats-Rollup": "all"},
    {"Nats-TTL": "1s"},
    {"Nats-Sequence": "-1", "Nats-Stream": "EPISODES", "Nats-Subject": "kiki.episode.recorded.x"},
    {"Kiki-Replay-End": "many", "Kiki-Seq": "last"},
    {"x" * 500: "y" * 2000},
)


@dataclass(frozen=True)
class Target:
    """A place to publish: ``subject`` has ``{}`` where its last token is free; ``schema`` names its message."""

    name: str
    subject: str
    schema: str | None
    is_service: bool = False


@dataclass(frozen=True)
class Shot:
    """One message. ``way`` says how it was made; ``asks``: somebody listens at its reply subject for an answer."""

    target: Target
    way: str
    subject: str
    data: bytes
    reply: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    asks: bool = False

    @property
    def token(self) -> str:
        """The last token of the subject: the turn's id where it is an event of a turn."""
        return Subjects.key(self.subject)

    def __str__(self) -> str:
        headers = f" headers {dict(self.headers)}" if self.headers else ""
        reply = f" reply {self.reply}" if self.reply else ""
        head = self.data[:HEAD_BYTES]
        return f"{self.way}: {self.subject[:120]}{reply}{headers} {len(self.data)} bytes {head.hex()} ({head!r})"


class Sampler:
    """Draws values that a JSON Schema of the contract allows."""

    def __init__(self, schemas: dict[str, Schema], dice: random.Random) -> None:
        self._schemas = schemas
        self._dice = dice

    def draw(self, schema: Schema | bool) -> Any:
        """A value of the schema."""
        if isinstance(schema, bool) or not schema.keys() - {"description", "title", "default"}:
            return self._dice.choice(OTHER_TYPES)
        if "$ref" in schema:
            return self.draw(self._schemas[schema["$ref"].rsplit("/", 1)[-1]])
        if "enum" in schema:
            return self._dice.choice(schema["enum"])
        if "anyOf" in schema:
            return self.draw(self._dice.choice(schema["anyOf"]))
        draw: Callable[[Schema], Any] = getattr(self, f"_draw_{schema['type']}")
        return draw(schema)

    def _draw_null(self, _: Schema) -> None:
        return None

    def _draw_boolean(self, _: Schema) -> bool:
        return self._dice.random() < 0.5

    def _draw_integer(self, schema: Schema) -> int:
        low, high = self._bounds(schema, 1)
        return self._dice.choice([int(low), self._dice.randint(int(low), min(int(high), int(low) + 5)), int(high)])

    def _draw_number(self, schema: Schema) -> float:
        low, high = self._bounds(schema, 1e-6)
        return self._dice.choice([low, self._dice.uniform(low, min(high, low + 2.0)), high])

    def _bounds(self, schema: Schema, step: float) -> tuple[float, float]:
        low = schema.get("minimum", schema.get("exclusiveMinimum", -3) + step)
        return low, max(low, schema.get("maximum", schema.get("exclusiveMaximum", max(low, 0) + 1000) - step))

    def _draw_string(self, schema: Schema) -> str:
        if schema.get("contentEncoding") == "base64":
            return base64.b64encode(self._dice.randbytes(self._dice.choice([0, 1, 40]))).decode()
        low, high = schema.get("minLength", 0), schema.get("maxLength", 10_000)
        texts = ["", "What is a kiki?", "Zoë\u2028 wohnt in Köln", "default"]
        for letters in (HEX, DIGITS, WORD):
            texts += ["".join(self._dice.choices(letters, k=length)) for length in (1, 7, 32, 64)]
        pattern = re.compile(schema.get("pattern", ""))
        fitting = [text for text in texts if low <= len(text) <= high and pattern.search(text)]
        assert fitting, f"no text of the sampler fits {schema}: add one"
        return self._dice.choice(fitting)

    def _draw_array(self, schema: Schema) -> list[Any]:
        if "prefixItems" in schema:
            return [self.draw(part) for part in schema["prefixItems"]]
        low = schema.get("minItems", 0)
        length = min(self._dice.choice([low, low + 1, low + 2]), schema.get("maxItems", low + 2))
        return [self.draw(schema.get("items", True)) for _ in range(length)]

    def _draw_object(self, schema: Schema) -> Body:
        required, properties = schema.get("required", ()), schema.get("properties", {})
        body = {
            name: self.draw(part) for name, part in properties.items() if name in required or self._dice.random() < 0.4
        }
        if not properties and isinstance(part := schema.get("additionalProperties"), dict):
            names = [self.draw({"type": "string", **schema.get("propertyNames", {})}) for _ in range(2)]
            body = {name: self.draw(part) for name in names[: schema.get("maxProperties", 2)]}
        return body


def find_targets(agents: Sequence[str]) -> tuple[Target, ...]:
    """Every subject of the contract, each service, and the status of each of ``agents``."""
    targets = [Target("status", "kiki.svc.status", None, is_service=True)]
    targets += [Target(f"status.{name}", f"kiki.svc.status.{name}", None, is_service=True) for name in agents]
    targets += [
        Target(service.verb, f"kiki.svc.{service.verb}", service.request.__name__, is_service=True)
        for service in SERVICES
        if "{" not in service.verb  # one to an advisor of any name
    ]
    for channel in channels("kiki"):
        lanes = LANES if "{lane}" in channel.address else ("",)
        for lane in lanes:
            address = re.sub(r"\{[^}]*\}$", "{}", channel.address.replace("{lane}", lane))
            targets.append(Target(f"{channel.name}{lane}", address, channel.message.__name__))
    return tuple(targets)


def unknown_targets() -> tuple[Target, ...]:
    """Subjects that nobody promises: misspelt ones, and those of an asker that listens for its turn."""
    misspelt = ("query.recieved", "job.urgent", "svc", "svc.awaits", "episode.replaced", "svc.nothing.at")
    return tuple(Target(f"unknown {name}", f"kiki.{name}.{{}}", "QueryReceived") for name in misspelt)


class Storm:
    """Draws shots; the same seed and agents make the same ones, but for the time of day."""

    def __init__(self, seed: int, *, agents: Sequence[str], inbox: str, most_bytes: int) -> None:
        self.dice = random.Random(seed)
        self.targets = (*find_targets(agents), *unknown_targets())
        self._schemas: dict[str, Schema] = document()["components"]["schemas"]
        self._sampler = Sampler(self._schemas, self.dice)
        self._inbox = inbox
        self._most_bytes = most_bytes
        self._count = 0
        self._turns: list[str] = []
        self._message_ids: list[str] = []
        self._order = self._rounds()

    def shots(self, count: int) -> Iterator[Shot]:
        """So many shots, each made when it is taken; in each round every target gets one, in another order."""
        return (self._shot(target) for target in islice(self._order, count))

    def _rounds(self) -> Iterator[Target]:
        while True:
            yield from self.dice.sample(self.targets, len(self.targets))

    def _shot(self, target: Target) -> Shot:
        self._count += 1
        way = self.dice.choices([*_WAYS], weights=[weight for weight, _ in _WAYS.values()])[0]
        token = self._new_token()
        body = self._good_body(target, token)
        shot = Shot(target, way, target.subject.format(token), _encode(body))
        shot = _WAYS[way][1](self, shot, body)
        return self._with_reply(shot)

    def _new_token(self) -> str:
        return f"storm{self._count}x{self.dice.randrange(16**8):08x}"

    def _good_body(self, target: Target, token: str) -> Any:
        if target.schema is None:
            return {}
        body = self._sampler.draw(self._schemas[target.schema])
        if isinstance(envelope := body.get("envelope"), dict):
            envelope |= {
                "turn_id": token,
                "created_at": time.time(),
                "deadline": time.time() + TURN_SECONDS,
                "schema_version": self._schemas["Envelope"]["properties"]["schema_version"]["maximum"],
            }
            if "episode" not in body:
                envelope["tenant"] = f"storm{self._count}"  # no drawn request forgets how this turn ended
            for holder, key in _places(body):
                if key in ("tenant", "user", "session_id", "turn_id") and isinstance(holder, dict) and key in envelope:
                    holder[key] = envelope[key]
            self._turns.append(token)
        for name, value in (("turn_id", token), ("reply", f"{self._inbox}.job{self._count}"), ("wait", 0.5)):
            if name in body:
                body[name] = value
        return body

    def _with_reply(self, shot: Shot) -> Shot:
        """A reply subject at random: nobody's, a listener's, or one at which the runtime itself reads."""
        chance = self.dice.random()
        if chance < 0.3 and shot.target.is_service:
            return shot
        if chance < 0.9 or not shot.target.is_service:
            inbox = f"{self._inbox}.{self._count}"
            return replace(shot, reply=inbox, asks=True) if shot.target.is_service else replace(shot, reply=inbox)
        own = self.dice.choice(self.targets).subject.format(self._new_token())
        return replace(shot, reply=self.dice.choice([own, "nobody.listens", "_INBOX." + "z" * 200]))

    def as_good(self, shot: Shot, _: Any) -> Shot:
        """Unchanged."""
        return shot

    def _with_leaf(self, shot: Shot, body: Any, values: Sequence[Any], kinds: tuple[type, ...]) -> Shot:
        """One value of the body, of certain types where there are such, replaced."""
        places = [*_places(body)]
        fitting = [place for place in places if isinstance(place[0][place[1]], kinds)] or places
        if not fitting:
            return replace(shot, data=_encode(self.dice.choice(values)))
        holder, key = self.dice.choice(fitting)
        holder[key] = self.dice.choice(values)
        return replace(shot, data=_encode(body))

    def with_number(self, shot: Shot, body: Any) -> Shot:
        """A number out of range."""
        return self._with_leaf(shot, body, NUMBERS, (int, float))

    def with_text(self, shot: Shot, body: Any) -> Shot:
        """An odd text, empty or very long ones among them."""
        return self._with_leaf(shot, body, (*TEXTS, self.dice.choice(WORD) * 200_000), (str,))

    def with_other_type(self, shot: Shot, body: Any) -> Shot:
        """A value of another type."""
        return self._with_leaf(shot, body, OTHER_TYPES, (object,))

    def with_nan(self, shot: Shot, body: Any) -> Shot:
        """A number that JSON lacks."""
        return self._with_leaf(shot, body, (float("nan"), float("inf"), float("-inf")), (int, float))

    def with_nesting(self, shot: Shot, body: Any) -> Shot:
        """A value of many brackets within each other."""
        nested = self._with_leaf(shot, body, (_NESTED,), (object,))
        depth = self.dice.choice([30, 600, 5_000, 200_000])
        brackets = self.dice.choice([b"[]", b"[]", b'{"a":}'])
        opening, closing = (brackets[:-1], brackets[-1:])
        inner = b"" if brackets == b"[]" else b"1"
        text = opening * depth + inner + closing * depth
        return replace(nested, data=nested.data.replace(f'"{_NESTED}"'.encode(), text))

    def without_field(self, shot: Shot, body: Any) -> Shot:
        """A field removed."""
        return self._without(shot, body, renamed=False)

    def with_renamed_field(self, shot: Shot, body: Any) -> Shot:
        """A field under another name."""
        return self._without(shot, body, renamed=True)

    def _without(self, shot: Shot, body: Any, *, renamed: bool) -> Shot:
        places = [(holder, key) for holder, key in _places(body) if isinstance(holder, dict)]
        if not places:
            return replace(shot, data=b'{"unknown_field": 1}')
        holder, key = self.dice.choice(places)
        value = holder.pop(key)
        if renamed:
            holder[f"{key}_"] = value
        return replace(shot, data=_encode(body))

    def with_contradiction(self, shot: Shot, body: Any) -> Shot:
        """Whose it is differs between the envelope and the body, or between two places of the body."""
        names = ("tenant", "user", "session_id", "turn_id", "episode_id")
        places = [place for place in _places(body) if place[1] in names]
        if not places:
            return self.without_field(shot, body)
        for holder, key in self.dice.sample(places, 1 + len(places) // 2):
            holder[key] = f"other{self.dice.randrange(99)}"
        return replace(shot, data=_encode(body))

    def with_other_subject(self, shot: Shot, _: Any) -> Shot:
        """The last token of the subject differs from the envelope's turn."""
        return replace(shot, subject=shot.target.subject.format(self._new_token()))

    def with_odd_token(self, shot: Shot, body: Any) -> Shot:
        """A wildcard or another odd text as the subject's last token, in the envelope, too."""
        token = self.dice.choice(TOKENS)
        if isinstance(body, dict) and isinstance(envelope := body.get("envelope"), dict):
            envelope["turn_id"] = token
        return replace(shot, subject=shot.target.subject.format(token), data=_encode(body))

    def with_taken_turn(self, shot: Shot, body: Any) -> Shot:
        """The id of another tenant's turn."""
        turn_id = self.dice.choice(self._turns or ["taken"])
        if isinstance(body, dict) and isinstance(envelope := body.get("envelope"), dict):
            envelope["turn_id"] = turn_id
        return replace(shot, subject=shot.target.subject.format(turn_id), data=_encode(body))

    def with_own_reply(self, shot: Shot, body: Any) -> Shot:
        """A subject in the body, a job's reply say, at which the runtime reads, or that nobody may name."""
        own = self.dice.choice(self.targets).subject.format(self._new_token())
        odd = (own, "kiki", "kiki.svc.embed", "$JS.API.STREAM.DELETE.TURNS", "a.*", ">", "x" * 255, "a..b", "")
        for name in ("reply", "to"):
            if isinstance(body, dict) and name in body:
                body[name] = self.dice.choice(odd)
        return replace(shot, data=_encode(body))

    def with_headers(self, shot: Shot, _: Any) -> Shot:
        """Headers that mean something to the broker or to a client."""
        return replace(shot, headers=self.dice.choice(HEADERS))

    def with_message_id(self, shot: Shot, _: Any) -> Shot:
        """A message id that may have been used before."""
        self._message_ids.append(f"{shot.token}:end")
        return replace(shot, headers={MSG_ID: self.dice.choice(self._message_ids)})

    def truncated(self, shot: Shot, _: Any) -> Shot:
        """Only the beginning."""
        return replace(shot, data=shot.data[: self.dice.randrange(len(shot.data) + 1)])

    def as_noise(self, shot: Shot, _: Any) -> Shot:
        """Random bytes."""
        return replace(shot, data=self.dice.randbytes(self.dice.choice([1, 2, 17, 400, 70_000])))

    def as_nothing(self, shot: Shot, _: Any) -> Shot:
        """No byte, or a JSON text that is no object."""
        return replace(shot, data=self.dice.choice([b"", b"{}", b"null", b"[]", b'""', b"0", b" ", b"{}{}"]))

    def as_giant(self, shot: Shot, body: Any) -> Shot:
        """Up to what the broker takes: blank space around it, a long text in it, or noise."""
        size = int(self._most_bytes * self.dice.choice([0.02, 0.3, 0.8, 0.8, 1.0])) - 8_000
        padding = size - len(shot.data)
        texts = [place for place in _places(body) if isinstance(place[0][place[1]], str)]
        match self.dice.choice(["blank", "text", "noise"]):
            case "noise":
                return replace(shot, data=self.dice.randbytes(size))
            case "text" if texts:
                holder, key = self.dice.choice(texts)
                holder[key] = "w " * (padding // 2)
                return replace(shot, data=_encode(body))
            case _:
                return replace(shot, data=shot.data + b" " * padding)


_WAYS: dict[str, tuple[float, Callable[[Storm, Shot, Any], Shot]]] = {
    "good": (10, Storm.as_good),
    "field removed": (8, Storm.without_field),
    "field renamed": (4, Storm.with_renamed_field),
    "another type": (10, Storm.with_other_type),
    "number out of range": (12, Storm.with_number),
    "odd text": (8, Storm.with_text),
    "NaN": (5, Storm.with_nan),
    "nesting": (4, Storm.with_nesting),
    "contradiction": (6, Storm.with_contradiction),
    "another subject": (4, Storm.with_other_subject),
    "odd token": (3, Storm.with_odd_token),
    "taken turn": (4, Storm.with_taken_turn),
    "own reply": (3, Storm.with_own_reply),
    "headers": (5, Storm.with_headers),
    "message id": (3, Storm.with_message_id),
    "truncated": (4, Storm.truncated),
    "noise": (4, Storm.as_noise),
    "nothing": (4, Storm.as_nothing),
    "giant": (0.8, Storm.as_giant),
}
"""How often a message is made in each way."""


def _encode(value: Any) -> bytes:
    """JSON with escapes, so that a lone surrogate can be written, and with NaN as Python writes it."""
    return json.dumps(value).encode()


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of a value: the object or array that holds it, and the key or index."""
    keys: Sequence[Any] = [*value] if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])
