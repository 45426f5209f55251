"""Imports a history from JSONL: each line becomes one episode and keeps its own id as ``source_id``."""

import time
import uuid
from collections.abc import Iterable, Sequence
from datetime import UTC
from urllib.parse import quote

import msgspec
from dateutil import parser
from msgspec import Struct

from agents.memory.concepts import concepts, salience
from agents.memory.embedding import embedding_text
from agents.memory.episodes import episode_id
from schemas.chat import Sampling
from schemas.codec import field_of
from schemas.envelope import Envelope
from schemas.episode import Episode
from schemas.errors import InvalidInput
from schemas.events import EpisodeRecorded

STEP = 0.001
"""Seconds added to a line that is not later than the one before it in its session, to keep the file's order."""

MODEL = "import"


class HistoryLine(Struct, frozen=True):
    """One line of the file. ``timestamp`` is Unix seconds or any usual date; without one the order of lines decides."""

    text: str
    session: str | int = "import"
    role: str = ""
    speaker: str = ""
    timestamp: float | str | None = None
    id: str | int | None = None

    @property
    def author(self) -> str:
        """The speaker, or the role."""
        return self.speaker or self.role

    @property
    def embedding_text(self) -> str:
        """The text that is embedded: who said what, because questions name people."""
        return embedding_text(self.author, self.text)


class DatedLine(Struct, frozen=True):
    """A line with its session, its time (``at``, Unix seconds) and its ``name``, which is unique within the session."""

    line: HistoryLine
    name: str
    session_id: str
    at: float


def parse_history(text: str, *, source: str) -> list[HistoryLine]:
    """Decode JSONL; empty lines and unknown fields are ignored.

    Raises:
        InvalidInput: a line is not an object with a text; the message names the line.
    """
    lines = []
    for number, raw in enumerate(text.splitlines(), 1):
        if not raw.strip():
            continue
        try:
            lines.append(msgspec.json.decode(raw, type=HistoryLine))
        except (msgspec.ValidationError, msgspec.DecodeError) as error:
            raise InvalidInput(
                f'{source}, line {number}: {error}; expected {{"session", "role" or "speaker", "text", "timestamp", '
                '"id"}, of which only "text" is required.',
                param=field_of(str(error)) or "line",
            ) from error
    return lines


def date_lines(lines: Iterable[HistoryLine], *, now: float | None = None) -> list[DatedLine]:
    """The lines with their times, which increase within a session, and names that are the same on every import.

    Raises:
        InvalidInput: a time cannot be read, or two lines of a session have the same id; the message names the line.
    """
    start = time.time() if now is None else now
    last: dict[str, float] = {}
    seen: set[tuple[str, str]] = set()
    dated_lines = []
    for number, line in enumerate(lines, 1):
        session = quote(str(line.session), safe="!#$&'()*+,/:;=?@[]._-~")[:128] or "import"
        name = str(line.id) if line.id is not None else f"{number}"
        if (session, name) in seen:
            raise InvalidInput(f"line {number}: the id '{name}' is used twice in session '{session}'.", param="id")
        seen.add((session, name))
        try:
            at = parse_time(line.timestamp) if line.timestamp is not None else last.get(session, start)
        except InvalidInput as error:
            raise InvalidInput(f"line {number}: {error.message}", param=error.param) from error
        at = max(at, last[session] + STEP) if session in last else at
        last[session] = at
        dated_lines.append(DatedLine(line, name, session, at))
    return dated_lines


def turn_id(dated_line: DatedLine, *, tenant: str) -> str:
    """The turn id of a line; the same on every import."""
    return uuid.uuid5(uuid.NAMESPACE_OID, f"import\n{tenant}\n{dated_line.session_id}\n{dated_line.name}").hex


def build_event(dated_line: DatedLine, vector: Sequence[float], *, tenant: str, embedder: str = "") -> EpisodeRecorded:
    """The event that records a line. Its ids are derived, so that importing again changes nothing."""
    turn = turn_id(dated_line, tenant=tenant)
    envelope = Envelope(
        event_id=f"{turn}:memory-write",
        turn_id=turn,
        session_id=dated_line.session_id,
        tenant=tenant,
        created_at=dated_line.at,
        deadline=dated_line.at,
    )
    return EpisodeRecorded(envelope=envelope, episode=_episode(envelope, dated_line, vector, embedder))


def _episode(envelope: Envelope, dated_line: DatedLine, vector: Sequence[float], embedder: str) -> Episode:
    about = concepts(dated_line.line.text)
    return Episode(
        episode_id=episode_id(tenant=envelope.tenant, turn_id=envelope.turn_id),
        turn_id=envelope.turn_id,
        session_id=envelope.session_id,
        tenant=envelope.tenant,
        created_at=dated_line.at,
        question=dated_line.line.text,
        answer="",
        model=MODEL,
        model_digest="",
        level="raw",
        intent="",
        domains=(),
        adapters=(),
        candidates=(),
        sampling=Sampling(),
        outcome="imported",
        embedding=tuple(vector),
        concepts=about,
        saillance_score=salience(dated_line.line.text, about),
        speaker=dated_line.line.author,
        source_id=dated_line.name,
        embedder=embedder,
    )


def parse_time(stamp: float | str, *, param: str = "timestamp") -> float:
    """The Unix time of Unix seconds or of any usual date; a date without a zone is UTC.

    Raises:
        InvalidInput: the text is not a time.
    """
    try:
        return float(stamp)
    except ValueError:
        pass
    try:
        moment = parser.parse(str(stamp))
    except (ValueError, OverflowError) as error:
        raise InvalidInput(
            f"'{stamp}' is no time ({error}); expected Unix seconds or a date like 2026-01-31T09:30:00Z.", param=param
        ) from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
