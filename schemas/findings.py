"""What each stage found. Events carry the findings of all earlier stages side by side.

Scores are probabilities in 0..1 unless the field says otherwise; times are seconds; vectors are unit length.
"""

from typing import Annotated, Literal

from msgspec import Meta

from schemas.base import Integer, WireStruct
from schemas.chat import MAX_CANDIDATES, Message, Sampling, ToolCall, Tooling, Usage, last_user_text
from schemas.numbers import Number, UnixTime

Level = Literal["raw", "fast", "full"]
FinishReason = Literal["stop", "length", "tool_calls"]
VoteChoice = Literal["KEEP", "REFUSE", "NEUTRAL"]

Outcome = Literal["passed", "single", "agreed", "consensus", "deferred", "arbitrated", "undecided"]
"""How a candidate was chosen. ``agreed``: the candidates agree with each other, so no vote was needed."""

MAX_ADAPTERS = 4
"""How many adapters are active at once at most."""


MemoryScope = Literal["conversation", "user", "none"]


class Continuation(WireStruct, frozen=True, kw_only=True):
    """Asks for a text to be continued as it is, without the chat template.

    The text is the query's last message, or the ``tokens`` where there are any: ids of the worker's tokenizer.
    ``echo``: the inference says what the text's tokens are.
    """

    tokens: tuple[Integer, ...] = ()
    echo: bool = False


AdapterScale = Annotated[float, Meta(ge=0.0, le=4.0)]
"""A factor on what adapters change: 1 as they were trained, 0 the base model alone."""


class Query(WireStruct, frozen=True, kw_only=True):
    """The question as the client sent it; the envelope has the deadline. ``level`` None leaves it to the alias.

    ``memory`` narrows what is recalled: the conversation's episodes, all of the user's (the default for a user who is
    named), or none. Without ``store`` no episode is recorded.
    ``awaited``: the asker listens on ``svc.awaits.<turn_id>`` for as long as it waits, and publishes ``answer.taken``
    before it gives the answer on. A turn that nobody awaits any more is cancelled, and an answer that is not taken is
    not recorded. Without it the turn goes on whoever listens.
    ``history`` "session" asks the memory for the session's last turns: from ``recall.done`` on they stand in
    ``messages`` as if the client had sent them.
    An assistant's message at the end is continued. ``continuation`` continues a text outside of any conversation.
    ``thinking`` says whether the model reasons before it answers, when it can; None leaves it to the alias.
    ``adapter_scale`` multiplies what the turn's adapters change; None leaves it to the alias.
    ``request`` is what the asker must know of its client's request to write the answer again later. It is the asker's
    own text, which every stage passes on; empty where nobody asks for the answer again.
    """

    model: str
    messages: Annotated[tuple[Message, ...], Meta(min_length=1)]
    sampling: Sampling = Sampling()
    level: Level | None = None
    candidates: Annotated[int, Meta(ge=1, le=MAX_CANDIDATES)] | None = None
    stream: bool = False
    tooling: Tooling | None = None
    memory: MemoryScope | None = None
    store: bool = True
    history: Literal["none", "session"] = "none"
    awaited: bool = False
    continuation: Continuation | None = None
    thinking: bool | None = None
    adapter_scale: AdapterScale | None = None
    request: str = ""

    @property
    def text(self) -> str:
        """The last user message: the text that the turn is routed, recalled for and judged by."""
        return last_user_text(self.messages)


class DomainScore(WireStruct, frozen=True, kw_only=True):
    """A domain and its score; ``name`` is a router output, one of the 31 merged labels, where nothing else is said."""

    name: str
    score: Annotated[float, Meta(ge=0.0, le=1.0)]


class AdapterUse(WireStruct, frozen=True, kw_only=True):
    """A LoRA adapter taking part: its registered name, its weight among those that take part (0..1), the digest of its
    file, and the scale that the request or the alias gives all adapters. Its change is multiplied by ``factor``."""

    name: str
    weight: Annotated[float, Meta(ge=0.0, le=1.0)] = 1.0
    sha256: str = ""
    scale: AdapterScale = 1.0

    @property
    def factor(self) -> float:
        """The factor on the adapter's change: weight times scale."""
        return self.weight * self.scale


class Advisory(WireStruct, frozen=True, kw_only=True):
    """Advice of another service (nerve-wml, kiki-flow). It is recorded; a replay does not ask for it again."""

    source: str
    payload: dict[str, float]


class Plan(WireStruct, frozen=True, kw_only=True):
    """Which stages do their work on a turn. The others pass it on at once, so every turn has the same events.

    ``stakes``: whether a wrong answer is costly, so that agreement alone does not end the panel.
    ``thinking``: whether the model reasons before it answers, when it can. The alias then shows the reasoning, unless a
    client asks otherwise.
    """

    level: Level
    candidates: Annotated[int, Meta(ge=1, le=MAX_CANDIDATES)] = 1
    stakes: Literal["low", "high"] = "low"
    recall: bool = False
    live_tokens: bool = True
    dissent: bool = False
    negotiate: bool = False
    antibias: bool = False
    record: bool = True
    thinking: bool = False


class Route(WireStruct, frozen=True, kw_only=True):
    """The router's finding. ``embedding`` is the query's unit vector (768 floats for mpnet).

    ``running`` are the niche domains that the conversation is about after this message, best first: what a later
    message that leans on the conversation is routed by. It outlives a message that says nothing, such as thanks.
    """

    domains: tuple[DomainScore, ...]
    adapters: Annotated[tuple[AdapterUse, ...], Meta(max_length=MAX_ADAPTERS)]
    intent: str
    plan: Plan
    embedding: tuple[float, ...] = ()
    advisories: tuple[Advisory, ...] = ()
    running: tuple[DomainScore, ...] = ()


class RecalledEpisode(WireStruct, frozen=True, kw_only=True):
    """One recalled episode with its fused score and the reasons for which it was recalled (dense, words, recency, ...).

    ``speaker`` and ``source_id`` are set on imported episodes: the speaker's name, and the id it was imported with.
    ``superseded_by`` is the id of a newer episode that replaces this one. In a turn, ``answer`` is empty where the
    earlier question is asked again: an answer of the assistant is no evidence for itself.
    """

    episode_id: str
    turn_id: str
    question: str
    answer: str
    score: Number
    reasons: tuple[str, ...]
    created_at: UnixTime
    session_id: str = ""
    speaker: str = ""
    source_id: str = ""
    superseded_by: str = ""


class Recall(WireStruct, frozen=True, kw_only=True):
    """The memory's finding: hits in descending order of score.

    ``history`` are the ids of the session's episodes, oldest first, that the memory put into the query's messages;
    ``history_until`` is the time of the newest of them (Unix time), 0 without any. ``history_partial`` says that newer
    ones may be missing, as the memory could not read them or was not done with them.
    """

    hits: tuple[RecalledEpisode, ...] = ()
    history: tuple[str, ...] = ()
    history_until: UnixTime = 0.0
    history_partial: bool = False


Byte = Annotated[int, Meta(ge=0, le=255)]


class LikelyToken(WireStruct, frozen=True, kw_only=True):
    """A token's text, and its natural-log probability at its position.

    ``bytes`` are the token's own where they are no text by themselves, such as half of a character; else it is empty,
    and they are those of ``token``.
    """

    token: str
    logprob: Number
    bytes: tuple[Byte, ...] = ()


class TokenLogprob(LikelyToken, frozen=True, kw_only=True):
    """A decoded token, with the likeliest tokens at its position when the sampling asked for them."""

    top: tuple[LikelyToken, ...] = ()


class Candidate(WireStruct, frozen=True, kw_only=True):
    """One decoded answer; ``logprob`` is the mean natural-log probability per completion token.

    With ``tool_calls`` the text is what the model said beside the calls, often nothing. ``factor`` is what the model's
    bias-knowledge neurons were multiplied by (KnowBias); 1.0 left them as they are.

    ``tokens`` are present when the sampling asks for log-probabilities. Their probabilities are those that each token
    was drawn from, after penalties and constraints and before temperature.
    """

    text: str
    adapters: tuple[AdapterUse, ...] = ()
    logprob: Number = 0.0
    finish_reason: FinishReason = "stop"
    usage: Usage = Usage()
    seed: Integer = 0
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    tokens: tuple[TokenLogprob, ...] = ()
    factor: float = 1.0


class Echo(WireStruct, frozen=True, kw_only=True):
    """A text that was continued. ``tokens`` are present when the sampling asks for log-probabilities; nothing stands
    before the first token, so its probability is 0.0 and means nothing."""

    text: str
    tokens: tuple[TokenLogprob, ...] = ()


class Inference(WireStruct, frozen=True, kw_only=True):
    """The worker's finding: every candidate, the total usage, the model that answered and how many weights it has.

    ``prompt_tokens`` counts the query's own messages, without what the memory brought; 0 when it is not known.
    ``cut``: the turn's time was over before every candidate had ended; the candidates hold what there was by then.
    ``echo`` is the text of a continuation, when the query asks for it.
    """

    candidates: Annotated[tuple[Candidate, ...], Meta(min_length=1)]
    usage: Usage
    model: str
    model_digest: str = ""
    parameters: Integer = 0
    prompt_tokens: Integer = 0
    cut: bool = False
    echo: Echo | None = None


class Dissent(WireStruct, frozen=True, kw_only=True):
    """Catfish's finding. ``text`` is an objection, never a candidate; empty when waived."""

    engaged: bool
    reason: str
    text: str = ""
    tone: Literal["none", "mild", "firm", "strong"] = "none"
    agreement: float | None = None
    usage: Usage = Usage()


class Vote(WireStruct, frozen=True, kw_only=True):
    """One panel member's judgement of one candidate in one round (CAMP, arXiv 2604.00085).

    ``logprobs`` maps each of the three labels to its natural-log probability.
    """

    member: str
    candidate: Integer
    choice: VoteChoice
    round: Integer = 1
    logprobs: dict[str, float] = {}
    argument: str = ""


class Cost(WireStruct, frozen=True, kw_only=True):
    """The cost of one step of a stage: seconds of model time (``compute``), and tokens read and written."""

    step: str
    compute: float
    tokens: Integer


Bias = Literal["position", "verbosity", "bandwagon", "sentiment"]


class BiasFinding(WireStruct, frozen=True, kw_only=True):
    """A bias of the judge (RBD, arXiv 2505.17100), and the evidence for it."""

    bias: Bias
    evidence: str


class Arbitration(WireStruct, frozen=True, kw_only=True):
    """The judge's ("attending's") comparison of two candidates, whose indices are ``first`` and ``second``.

    ``lean`` and ``swapped`` are log P(``first``) - log P(``second``) in nats: ``lean`` with ``first`` shown before
    ``second``, ``swapped`` with ``first`` shown after it. ``again`` are the same two numbers after the judge has read
    the ``findings``; None when there were none.
    """

    first: Integer
    second: Integer
    lean: float
    swapped: float
    findings: tuple[BiasFinding, ...] = ()
    again: tuple[float, float] | None = None
    changed: bool = False


class Negotiation(WireStruct, frozen=True, kw_only=True):
    """The negotiator's finding: the chosen candidate and how it was chosen.

    ``panel`` names the panel's members. ``groups`` are the indices of candidates that say the same, the largest group
    first; the panel votes on one candidate of each group. ``costs`` are in the order in which they arose.
    """

    chosen: Integer
    text: str
    outcome: Outcome
    panel: tuple[str, ...] = ()
    groups: tuple[tuple[Integer, ...], ...] = ()
    votes: tuple[Vote, ...] = ()
    rounds: Integer = 0
    dissent: Dissent | None = None
    arbitration: Arbitration | None = None
    costs: tuple[Cost, ...] = ()
    notes: tuple[str, ...] = ()
    usage: Usage = Usage()


class BiasReport(WireStruct, frozen=True, kw_only=True):
    """Antibias's finding: whether it checked the answer, what it found and what it did.

    ``undecided``: the model contradicted itself about the text that was passed on. ``unfair`` and ``unfair_revised``
    are the probabilities that the answer and its revision are unfair. ``framing`` and ``guideline`` are what the
    revision was given (DeFrame). ``tokens`` counts those of the revision that became the answer.
    """

    checked: bool
    biased: bool = False
    revised: bool = False
    refused: bool = False
    undecided: bool = False
    unfair: float | None = None
    unfair_revised: float | None = None
    framing: str = ""
    guideline: str = ""
    reason: str = ""
    tokens: Integer = 0
    usage: Usage = Usage()
    costs: tuple[Cost, ...] = ()


class StageTiming(WireStruct, frozen=True, kw_only=True):
    """One stage's share of the turn. Unix times in seconds; ``compute`` is embedding and model time within it.

    ``ahead`` is embedding time for this stage that was spent before the stage began, while its event was on the way.
    """

    stage: str
    started_at: float
    finished_at: float
    compute: float = 0.0
    ahead: float = 0.0
    attempt: Integer = 1

    @property
    def duration(self) -> float:
        """Seconds from start to publish."""
        return self.finished_at - self.started_at
