"""What the clients of a soak did and saw, and what was broken when: one JSON line a moment, in the order of time.

A question carries a mark, which names its owner and its number: ``m-ada-u2-000017`` is the 17th question of the user u2
of the tenant ada. The scripted worker's answer names the marks that it read, so whose words reached whom can be seen.
"""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

_MARK = re.compile(r"\bm-([a-z]+)-([a-z0-9]+)-(\d{6})\b")
_ANSWER = re.compile(r"History: (.*?)\. Recalled: (.*?)\.\Z", re.DOTALL)


@dataclass(frozen=True, order=True)
class Mark:
    """A question's owner, and its number among the owner's questions."""

    tenant: str
    user: str
    number: int

    def __str__(self) -> str:
        return f"m-{self.tenant}-{self.user}-{self.number:06d}"


def find_marks(text: str) -> tuple[Mark, ...]:
    """The marks in a text, in its order."""
    return tuple(Mark(tenant, user, int(number)) for tenant, user, number in _MARK.findall(text))


def write_answer(question: str, history: Sequence[str], recalled: Sequence[str]) -> str:
    """The scripted worker's answer: the question's mark, those of the session's questions and the recalled ones."""
    own, before, hits = (" ".join(map(str, find_marks(" ".join(texts)))) for texts in ([question], history, recalled))
    return f"Kept {own}. History: {before or 'none'}. Recalled: {hits or 'none'}."


def read_answer(text: str) -> tuple[tuple[Mark, ...], tuple[Mark, ...]] | None:
    """The marks of the session's history and of what was recalled; None when the text is not a whole answer."""
    match = _ANSWER.search(text)
    return None if match is None else (find_marks(match[1]), find_marks(match[2]))


class Moment(msgspec.Struct, frozen=True, kw_only=True, tag_field="type"):
    """Something that happened, ``at`` seconds of this process's monotonic clock."""

    at: float = msgspec.field(default_factory=time.monotonic)


class QuestionAsked(Moment, frozen=True, kw_only=True, tag="asked"):
    """A question is sent for the first time. ``session`` is empty where the client names none."""

    mark: str
    session: str


class AnswerGiven(Moment, frozen=True, kw_only=True, tag="answered"):
    """A client has the whole answer. ``seconds``: how long this request took."""

    mark: str
    turn_id: str
    text: str
    seconds: float


class RequestRefused(Moment, frozen=True, kw_only=True, tag="refused"):
    """A client was told no. ``retryable``: by the status and code, as a stock client decides."""

    mark: str
    status: int
    code: str
    message: str
    retryable: bool
    seconds: float


class RequestLost(Moment, frozen=True, kw_only=True, tag="lost"):
    """A connection ended, or could not be made. ``silent``: nothing came for longer than a turn may take."""

    mark: str
    error: str
    silent: bool
    seconds: float


class RequestAbandoned(Moment, frozen=True, kw_only=True, tag="abandoned"):
    """The client went away before it had an answer, and asks no more."""

    mark: str


class SessionForgotten(Moment, frozen=True, kw_only=True, tag="forgotten"):
    """A client was told that a session is forgotten."""

    tenant: str
    user: str
    session: str


class RecordsConsumed(Moment, frozen=True, kw_only=True, tag="consumed"):
    """A registered service has marked records, by their sequences; those that were forgotten meanwhile are left out."""

    ids: tuple[int, ...]


class FaultHealed(Moment, frozen=True, kw_only=True, tag="fault"):
    """What the nemesis broke at ``began`` is whole again, as far as it has to see to that."""

    began: float
    name: str
    detail: str


AnyMoment = (
    QuestionAsked
    | AnswerGiven
    | RequestRefused
    | RequestLost
    | RequestAbandoned
    | SessionForgotten
    | RecordsConsumed
    | FaultHealed
)


class SoakHistory:
    """The moments of a run, in memory and in a file, so that a killed soak leaves what it saw."""

    def __init__(self, path: Path) -> None:
        self.moments: list[AnyMoment] = []
        self._file: BinaryIO = path.open("wb", buffering=0)

    def add(self, moment: AnyMoment) -> None:
        """Note a moment."""
        self.moments.append(moment)
        self._file.write(msgspec.json.encode(moment) + b"\n")

    def close(self) -> None:
        """Close the file; the moments stay."""
        self._file.close()


def read_history(path: Path) -> list[AnyMoment]:
    """The moments in a history's file."""
    decoder = msgspec.json.Decoder(AnyMoment)
    return [decoder.decode(line) for line in path.read_bytes().splitlines()]
