"""Makes beta records of episodes: as dream-of-kiki's handlers read them, or as JSONL for its ``load_beta_jsonl``."""

from collections.abc import Iterable, Sequence

from schemas.codec import encode
from schemas.dream import BetaRecord, MemoryOwner
from schemas.episode import Episode


def beta_record(number: int, episode: Episode, *, answer: Sequence[float] = ()) -> BetaRecord:
    """The beta record of the episode with number ``number`` in the record's stream.

    ``answer`` is the embedding of its answer; without it ``x`` and ``y`` are None.
    """
    embedding = tuple(episode.embedding) or None
    return BetaRecord(
        id=number,
        context=episode.question,
        outcome=episode.answer,
        saillance_score=episode.saillance_score,
        timestamp=episode.created_at,
        owner=MemoryOwner(tenant=episode.tenant, user=episode.user),
        input=embedding,
        x=embedding if answer else None,
        y=tuple(answer) or None,
    )


def jsonl(records: Iterable[BetaRecord]) -> bytes:
    """One record a line."""
    return b"".join(encode(item) + b"\n" for item in records)
