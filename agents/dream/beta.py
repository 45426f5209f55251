"""Records as dream-of-kiki's handlers read them, and as the JSONL that its ``load_beta_jsonl`` reads."""

from collections.abc import Iterable, Sequence

from schemas.codec import encode
from schemas.dream import BetaRecord
from schemas.episode import Episode


def beta_record(number: int, episode: Episode, *, answer: Sequence[float] = ()) -> BetaRecord:
    """The beta record of an episode that is number ``number`` of the record.

    ``answer`` is the embedding of its answer: with it, ``x`` and ``y`` are there.
    """
    embedding = tuple(episode.embedding) or None
    return BetaRecord(
        id=number,
        context=episode.question,
        outcome=episode.answer,
        saillance_score=episode.saillance_score,
        timestamp=episode.created_at,
        input=embedding,
        x=embedding if answer else None,
        y=tuple(answer) or None,
    )


def jsonl(records: Iterable[BetaRecord]) -> bytes:
    """One record a line."""
    return b"".join(encode(item) + b"\n" for item in records)
