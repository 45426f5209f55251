"""Imports a history from JSONL: each line becomes one episode and keeps its own id as ``source_id``.

A line's episode depends on the line alone: on its session and its id, or without an id on its time as it is written,
its speaker and its text. So the order of a file does not matter, and a history may come in several files.
"""

import hashlib
import time
import uuid
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import tzinfo
from urllib.parse import quote

import msgspec
from msgspec import Struct

from agents.memory.embedding import embedding_text
from agents.memory.episodes import episode_id
from agents.memory.text.concepts import concepts, salience
from agents.shared.times import parse_time
from schemas.base import UNREADABLE
from schemas.chat import Sampling
from schemas.codec import field_of
from schemas.envelope import Envelope
from schemas.episode import Episode
from schemas.errors import InvalidInput
from schemas.events import EpisodeRecorded
from schemas.upcast import earlier_user

STEP = 0.001
"""Seconds between two lines of a session that have the same time, or of which the later one has none."""

AHEAD = 86400.0
"""Seconds that a line's time may be ahead of this machine's clock."""

MAX_TEXT = 256 * 1024
"""Bytes of a line's text at most, so that its event fits into one message of any broker."""

SHOWN_LINES = 10
"""Refused lines that one error names."""

MODEL = "import"


class HistoryLine(Struct, frozen=True):
    """One line of the file. ``timestamp`` is anything that :func:`agents.shared.times.parse_time` reads."""

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

    @property
    def session_id(self) -> str:
        """The session as the record names it: printable ASCII, a long one cut and told apart by a digest."""
        name = quote(str(self.session), safe="!#$&'()*+,/:;=?@[]._-~") or "import"
        return name if len(name) <= 128 else f"{name[:95]}-{hashlib.sha256(name.encode()).hexdigest()[:32]}"

    @property
    def name(self) -> str:
        """The id that the line brings, or else its digest."""
        return self.digest if self.id in (None, "") else str(self.id)

    @property
    def digest(self) -> str:
        """A digest of the line's time as written, its author and its text."""
        stamp = self.timestamp if isinstance(self.timestamp, str | None) else float(self.timestamp)
        return hashlib.sha256(msgspec.json.encode((stamp, self.author, self.text))).hexdigest()[:32]


class DatedLine(Struct, frozen=True):
    """A line with its time.

    Attributes:
        line: the line.
        number: its number in the file, from 1.
        at: its time (Unix seconds).
        position: its number among the lines that are not empty, from 1: earlier versions named a line without an id so.
    """

    line: HistoryLine
    number: int
    at: float
    position: int


class BadLine(Struct, frozen=True):
    """A line that is not imported: its number in the file, the field at fault, and why."""

    number: int
    param: str
    reason: str


class History(Struct, frozen=True):
    """A file's lines; ``repeated`` counts those that say the same as an earlier one and are the same episode."""

    entries: tuple[DatedLine, ...]
    bad: tuple[BadLine, ...] = ()
    repeated: int = 0


def read_history(text: str, *, zone: tzinfo | None = None, now: float | None = None) -> History:
    """Decode JSONL and date its lines; empty lines and unknown fields are ignored.

    A time without a zone is that of ``zone``, or of this machine. A line without a time comes after the one before it
    in its session; those before a session's first time come before that, and a session without any ends at ``now``.
    """
    lines: list[tuple[int, HistoryLine]] = []
    bad: list[BadLine] = []
    numbers: list[int] = []
    # JSON may hold line separators other than "\n" in its strings, at which splitlines would cut.
    for number, raw in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        if not raw.strip():
            continue
        numbers.append(number)
        try:
            lines.append((number, _decode_line(raw)))
        except InvalidInput as error:
            bad.append(BadLine(number, error.param or "line", error.message))
    positions = {number: position for position, number in enumerate(numbers, 1)}
    return _date(lines, bad, positions, zone=zone, now=time.time() if now is None else now)


def date_lines(
    lines: Iterable[HistoryLine], *, zone: tzinfo | None = None, now: float | None = None
) -> list[DatedLine]:
    """The lines with their times, as :func:`read_history` gives them.

    Raises:
        InvalidInput: a line is refused; the message names it.
    """
    numbered_lines = list(enumerate(lines, 1))
    positions = {number: number for number, _ in numbered_lines}
    history = _date(numbered_lines, [], positions, zone=zone, now=time.time() if now is None else now)
    refuse(history.bad, source="the history")
    return list(history.entries)


def refuse(bad: Sequence[BadLine], *, source: str) -> None:
    """Refuse a file that has bad lines.

    Raises:
        InvalidInput: there are any; the message gives their numbers and why, and says that nothing was imported.
    """
    if not bad:
        return
    lines = "; ".join(f"line {line.number}: {line.reason.rstrip('.')}" for line in bad[:SHOWN_LINES])
    more = f"; and {len(bad) - SHOWN_LINES} more" if len(bad) > SHOWN_LINES else ""
    raise InvalidInput(
        f"{source}, {lines}{more}. Nothing was imported; --skip-bad imports the rest.", param=bad[0].param
    )


def _decode_line(raw: str) -> HistoryLine:
    try:
        line = msgspec.json.decode(raw, type=HistoryLine)
    except UNREADABLE as error:
        raise InvalidInput(
            f'{error}; expected {{"session", "role" or "speaker", "text", "timestamp", "id"}}, of which only "text" is '
            "required",
            param=field_of(str(error)) or "line",
        ) from error
    if len(msgspec.json.encode(line)) > MAX_TEXT:
        raise InvalidInput(f"it has more than {MAX_TEXT} bytes: split its text", param="text")
    return line


def _date(
    lines: Sequence[tuple[int, HistoryLine]],
    bad: list[BadLine],
    positions: dict[int, int],
    *,
    zone: tzinfo | None,
    now: float,
) -> History:
    first_uses: dict[tuple[str, str], tuple[int, HistoryLine]] = {}
    sessions: dict[str, list[tuple[int, HistoryLine, float | None]]] = defaultdict(list)
    repeated = 0
    for number, line in lines:
        try:
            at = _read_stamp(line, zone, now)
            first_number, first_line = first_uses.setdefault((line.session_id, line.name), (number, line))
            if first_line.digest != line.digest:
                raise InvalidInput(
                    f"the id '{line.id}' is used twice in session '{line.session_id}', in line {first_number} for "
                    "something else",
                    param="id",
                )
        except InvalidInput as error:
            bad.append(BadLine(number, error.param or "line", error.message))
            continue
        if first_number == number:
            sessions[line.session_id].append((number, line, at))
        else:
            repeated += 1
    entries = [
        DatedLine(line, number, at, positions[number])
        for session_lines in sessions.values()
        for (number, line, _), at in zip(
            session_lines, place_times([at for _, _, at in session_lines], now=now), strict=True
        )
    ]
    entries.sort(key=lambda entry: entry.number)
    return History(tuple(entries), tuple(sorted(bad, key=lambda line: line.number)), repeated)


def _read_stamp(line: HistoryLine, zone: tzinfo | None, now: float) -> float | None:
    if line.timestamp is None:
        return None
    at = parse_time(line.timestamp, zone=zone)
    if at > now + AHEAD:
        raise InvalidInput(f"'{line.timestamp}' lies more than a day ahead", param="timestamp")
    return at


def place_times(times: Sequence[float | None], *, now: float) -> list[float]:
    """The times of a session's lines, each another one, in the order of the file (Unix seconds).

    A line keeps its time; of several with the same one the later ones get a :data:`STEP` more each.
    """
    first = next((index for index, at in enumerate(times) if at is not None), len(times))
    begin = times[first] if first < len(times) else now
    assert begin is not None
    places: list[float] = []
    uses: dict[float, int] = {}
    for index, at in enumerate(times):
        base = at
        if base is None:  # after the line before it, or before the session's first time
            base = places[-1] + STEP if index > first else begin - (first - index) * STEP
        place = base
        while place in uses:
            uses[base] = uses.get(base, 0) + 1
            place = base + uses[base] * STEP
        uses.setdefault(place, 0)
        places.append(place)
    return places


def turn_id(line: HistoryLine, *, tenant: str, user: str = "") -> str:
    """The turn id of a line; the same on every import."""
    return _turn_id(line.session_id, line.name, tenant, user)


def former_turn_id(entry: DatedLine, *, tenant: str, user: str = "") -> str | None:
    """The turn id that earlier versions gave a line without an id, by its position; None for a line with an id."""
    if entry.line.id not in (None, ""):
        return None
    return _turn_id(entry.line.session_id, str(entry.position), tenant, user)


def _turn_id(session_id: str, name: str, tenant: str, user: str) -> str:
    # What was imported before there were users keeps its id.
    owner = tenant if user == earlier_user(tenant) else f"{tenant}\0{user}"
    return uuid.uuid5(uuid.NAMESPACE_OID, f"import\n{owner}\n{session_id}\n{name}").hex


def build_event(
    dated_line: DatedLine, vector: Sequence[float], *, tenant: str, user: str = "", embedder: str = ""
) -> EpisodeRecorded:
    """The event that records a line. Its ids are derived, so that importing again changes nothing."""
    turn = turn_id(dated_line.line, tenant=tenant, user=user)
    envelope = Envelope(
        event_id=f"{turn}:memory-write",
        turn_id=turn,
        session_id=dated_line.line.session_id,
        tenant=tenant,
        user=user,
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
        user=envelope.user,
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
        source_id=dated_line.line.name,
        embedder=embedder,
    )
