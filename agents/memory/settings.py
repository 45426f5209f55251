"""Settings of the memory."""

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct

from bus.storage.disk import RESERVE
from schemas.calls import EMBED, MEMORY_EMBED, Service
from schemas.embedder import EmbedReply, EmbedRequest

Cosine = Annotated[float, Meta(ge=-1.0, le=1.0)]
Share = Annotated[float, Meta(ge=0.0, le=1.0)]
Amount = Annotated[float, Meta(ge=0.0, le=1e9)]
Seconds = Annotated[float, Meta(gt=0.0, le=1e9)]
Count = Annotated[int, Meta(ge=1, le=1_000_000_000)]
Limit = Annotated[int, Meta(ge=0, le=1_000_000_000)]


class MemorySettings(Struct, frozen=True, kw_only=True):
    """Where the memory lives, what counts as relevant and how much of it a turn is shown.

    "Chosen" marks a number that this project set by judgement; no paper or measurement gives it.

    Attributes:
        data_dir: holds ``atlas/``, ``trace/`` and ``memory.lock``; one process owns it.
        atlas: where vectors and words are kept: ``edge`` (qdrant-edge, in ``data_dir``) or ``qdrant`` (a server).
        qdrant_url: the Qdrant server.
        qdrant_key: its API key.
        qdrant_collection: the collection there; used by nothing else, made when it is missing.
        trace: where the graph is kept: ``ladybug`` (in ``data_dir``) or ``neo4j`` (a server that speaks Bolt).
        neo4j_uri: that server.
        neo4j_user: the account there.
        neo4j_password: its password.
        neo4j_database: the database there; used by nothing else.
        store_timeout: seconds that a server may take for one call.
        embedder: name, Hugging Face id or path of the model that embeds what is remembered; empty takes the router's.
        router_embedder: the model whose vectors the router gives; set by the composition.
        vector_size: floats in an embedding; 768 for all-mpnet-base-v2.
        tokenizer: a model's ``tokenizer.json``, which counts the budget; without one, four characters are a token.
        language: stop words and stems of words in the Latin script, such as ``english``; empty finds the language of
            each text by its stop words.
        relevance_floor: cosine of question and episode below which nothing is recalled. Chosen: with mpnet,
            questions that depend on an earlier one were read at 0.50 to 0.65, greetings and thanks below 0.2.
        floor_languages: languages whose cosines the embedder was trained for. For a question in another one the floor
            holds nothing back, so an episode must also have a word of it, neighbours included.
        impersonal_floor: cosine of question and episode alone that other conversations need when the question speaks
            neither of the asker nor of a speaker, and mentions no name that is in the episode; chosen.
        impersonal_coverage: share of such a question's words (if it has two) that the episode needs, too. Chosen with
            ``kiki bench recall-harm`` in sight.
        floor_coverage: share of the query's words in an episode that recalls it below that floor, too; chosen. Above
            1 no share does.
        floor_words: how many words that must be at least; one more below ``impersonal_floor``.
        lexical_weight: what the best BM25 score adds to the cosine; others in proportion. Measured on LoCoMo.
        speaker_weight: what is added when the query names the speaker. Measured on LoCoMo.
        question_weight: what is subtracted from a question without an answer. Measured on LoCoMo.
        date_weight: what is added when the query names the date at which the episode was said. Measured on LoCoMo.
        recency_weight: what recency (0..1) adds; chosen.
        recency_half_life: seconds after which an episode's recency has halved; chosen.
        same_fact: cosine of two episodes below which neither replaces the other; None takes what is known of the
            embedder (:data:`agents.memory.superseding.LEAST_COSINES`). At 1 nothing is replaced.
        superseded_weight: what an episode loses that a newer one replaced, beside its place before that one; chosen.
        same_ask: cosine of a question and an earlier one from which they ask the same. Chosen: with mpnet paraphrases
            were read at 0.79 to 0.95, questions about another thing of the same kind at 0.66 to 0.78.
        summarised_weight: what is subtracted from an episode that a summary sums up; chosen.
        summarised_share: share of an episode's words that must be in the summary for that; chosen.
        compared: how many of the best episodes are compared with each other, and considered for a turn.
        max_hits: episodes that a turn is shown at most.
        token_budget: tokens of recalled questions and answers together.
        history_tokens: tokens of a session's last turns, for who asks for its history; whole turns, the newest first.
        history_timeout: seconds that such a turn waits for the record and projection of what was answered before it.
        hit_characters: characters of one question, and of one answer; longer ones are cut in the middle.
        candidates: episodes that the vector and the words each bring before fusion, at least ``max_hits``.
        sleep_age: seconds after which an episode is old enough to be summed up; chosen.
        sleep_every: seconds between two sleeps of a running agent; 0 sleeps only on request.
        sleep_alike: mean cosine from which episodes share a summary; chosen.
        sleep_least: fewest episodes of one summary.
        sleep_most: most episodes of one summary.
        sleep_tokens: tokens of a summary at most.
        sleep_timeout: seconds that may pass until a summary is written.
        recall_timeout: seconds after which a turn goes on without recall.
        conversation_timeout: seconds to wait for answers that are not recorded yet, before a conversation without a
            session id counts as a new one.
        concurrency: turns handled at once.
        projection_batch: episodes that are projected together at most, with one sync to disk.
        projection_ack_wait: seconds after which episodes that a dead memory was projecting are given to the next one.
        optimise_after: new episodes after which Atlas is optimised; or a quarter of those it had, if that is more.
        disk_reserve: bytes of the disk of ``data_dir`` below which turns are refused; set by the composition.
        lock_timeout: seconds to wait for a process that is just ending and still holds ``data_dir``.
        status_interval: seconds between two readings of the gauges.
        graph_buffer: bytes that the graph store may keep in memory.
    """

    data_dir: Path
    atlas: Literal["edge", "qdrant"] = "edge"
    qdrant_url: str = "http://127.0.0.1:6333"
    qdrant_key: str | None = None
    qdrant_collection: Annotated[str, Meta(min_length=1)] = "kiki-episodes"
    trace: Literal["ladybug", "neo4j"] = "ladybug"
    neo4j_uri: str = "bolt://127.0.0.1:7687"
    neo4j_user: str = "neo4j"
    neo4j_password: str = ""
    neo4j_database: Annotated[str, Meta(min_length=1)] = "neo4j"
    store_timeout: Seconds = 10.0
    embedder: str = ""
    router_embedder: str = ""
    vector_size: Count = 768
    tokenizer: Path | None = None
    language: str = ""
    relevance_floor: Cosine = 0.4
    floor_languages: tuple[str, ...] = ("english",)
    impersonal_floor: Cosine = 0.5
    impersonal_coverage: Amount = 0.5
    floor_coverage: Amount = 0.6
    floor_words: Limit = 2
    lexical_weight: Amount = 0.3
    speaker_weight: Amount = 0.15
    question_weight: Amount = 0.08
    date_weight: Amount = 0.3
    recency_weight: Amount = 0.03
    recency_half_life: Seconds = 7 * 86400.0
    same_fact: Cosine | None = None
    superseded_weight: Amount = 0.1
    same_ask: Cosine = 0.79
    summarised_weight: Amount = 0.05
    summarised_share: Share = 0.5
    compared: Count = 24
    max_hits: Limit = 4
    token_budget: Limit = 600
    history_tokens: Limit = 1024
    history_timeout: Amount = 2.0
    hit_characters: Count = 600
    candidates: Count = 32
    sleep_age: Annotated[float, Meta(ge=-1e9, le=1e9)] = 7 * 86400.0
    sleep_every: Amount = 0.0
    sleep_alike: Cosine = 0.5
    sleep_least: Count = 3
    sleep_most: Count = 8
    sleep_tokens: Count = 160
    sleep_timeout: Seconds = 300.0
    recall_timeout: Seconds = 1.0
    conversation_timeout: Seconds = 2.0
    concurrency: Count = 16
    projection_batch: Count = 16
    projection_ack_wait: Seconds = 30.0
    optimise_after: Count = 20_000
    disk_reserve: Limit = RESERVE
    lock_timeout: Amount = 3.0
    status_interval: Seconds = 2.0
    graph_buffer: Count = 128 * 1024**2

    @property
    def has_own_embedder(self) -> bool:
        """Whether the router's vectors are of another model than the memory's."""
        return self.embedder not in ("", self.router_embedder)

    @property
    def embedder_in_force(self) -> str:
        """The name of the model that embeds what is remembered."""
        return self.embedder or self.router_embedder

    @property
    def embed_service(self) -> Service[EmbedRequest, EmbedReply]:
        """The request that gives that model's vectors."""
        return MEMORY_EMBED if self.has_own_embedder else EMBED
