"""The immutable record of an answered turn: what dream-of-kiki replays and memory projects."""

from schemas.base import Integer, WireStruct
from schemas.chat import Message, Sampling, Usage
from schemas.envelope import User
from schemas.findings import (
    AdapterUse,
    Advisory,
    Arbitration,
    BiasReport,
    Candidate,
    Dissent,
    DomainScore,
    Level,
    Plan,
    StageTiming,
    Vote,
)


class Episode(WireStruct, frozen=True, kw_only=True):
    """One answered turn with everything that running it again needs.

    ``episode_id`` is derived from the turn id, so a turn that is recorded twice has one episode. ``user`` is whose it
    is within the tenant (since version 3 of the contract); empty when nobody was named. ``messages`` is the
    conversation as the model read it and ``plan`` says which stages did their work (both since version 2; of an older
    episode only the question is known). ``embedding`` is the query's unit vector, and ``embedder`` names the model that
    made it (empty in older episodes). ``recalled_ids`` are the episodes that the prompt quoted, ``question_only_ids``
    those of them without an answer, and ``superseded_by`` names the newer ones of those marked as replaced;
    ``history_ids`` are those in ``messages``. ``concepts`` are key phrases of the text. ``saillance_score`` (spelled as
    the sibling services spell it), 0..1, says how much there is to remember. An imported episode has the name of the
    speaker in ``speaker`` and the id that it was imported with in ``source_id``. A summary names the episodes that it
    stands for in ``summarises``. Since version 5: ``cut`` (the turn's time was over before its answer had ended),
    ``request`` (the query's), and ``prompt_tokens`` of the query's own messages, 0 when they are not known.
    """

    episode_id: str
    turn_id: str
    session_id: str
    tenant: str
    created_at: float
    user: User = ""
    question: str
    answer: str
    model: str
    model_digest: str
    level: Level
    intent: str
    domains: tuple[DomainScore, ...]
    adapters: tuple[AdapterUse, ...]
    candidates: tuple[Candidate, ...]
    sampling: Sampling
    messages: tuple[Message, ...] = ()
    plan: Plan | None = None
    recalled_ids: tuple[str, ...] = ()
    question_only_ids: tuple[str, ...] = ()
    superseded_by: dict[str, str] = {}
    history_ids: tuple[str, ...] = ()
    advisories: tuple[Advisory, ...] = ()
    votes: tuple[Vote, ...] = ()
    outcome: str = "passed"
    dissent: Dissent | None = None
    arbitration: Arbitration | None = None
    bias: BiasReport = BiasReport(checked=False)
    cut: bool = False
    usage: Usage = Usage()
    prompt_tokens: Integer = 0
    request: str = ""
    timings: tuple[StageTiming, ...] = ()
    embedding: tuple[float, ...] = ()
    concepts: tuple[str, ...] = ()
    saillance_score: float = 0.0
    speaker: str = ""
    source_id: str = ""
    summarises: tuple[str, ...] = ()
    embedder: str = ""
