"""Settings of the memory."""

from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta, Struct


class MemorySettings(Struct, frozen=True, kw_only=True):
    """Where the memory lives, what counts as relevant and how much of it a turn is shown.

    "Chosen" marks a number that this project set by judgement; no paper or measurement gives it.

    Attributes:
        data_dir: holds ``atlas/``, ``trace/`` and ``memory.lock``; one process owns it.
        atlas: where vectors and words are kept: ``edge`` (qdrant-edge, in ``data_dir``) or ``qdrant`` (a server).
        qdrant_url: the Qdrant server; ``qdrant_key`` is its API key.
        qdrant_collection: the collection there; used by nothing else, made when it is missing.
        trace: where the graph is kept: ``ladybug`` (in ``data_dir``) or ``neo4j`` (a server that speaks Bolt).
        neo4j_uri: that server; ``neo4j_user`` and ``neo4j_password`` are the account there.
        neo4j_database: the database there; used by nothing else.
        store_timeout: seconds that a server may take for one call.
        vector_size: floats in an embedding; 768 for all-mpnet-base-v2.
        tokenizer: a model's ``tokenizer.json``, which counts the budget; without one, four characters are a token.
        language: stop words and stems of the word index.
        relevance_floor: cosine of question and episode below which nothing is recalled. Chosen: with mpnet,
            questions that depend on an earlier one were read at 0.50 to 0.65, greetings and thanks below 0.2.
        impersonal_floor: cosine of question and episode alone that other conversations need when the question speaks
            neither of the asker nor of a speaker, and mentions no name that is in the episode; chosen.
        impersonal_coverage: share of such a question's words (if it has two) that the episode needs, too. Chosen with
            ``kiki bench recall-harm`` in sight.
        floor_coverage: share of the query's words in an episode that recalls it below that floor, too; chosen.
        floor_words: how many words that must be at least; one more below ``impersonal_floor``.
        lexical_weight: what the best BM25 score adds to the cosine; others in proportion. Measured on LoCoMo.
        speaker_weight: what is added when the query names the speaker. Measured on LoCoMo.
        question_weight: what is subtracted from a question without an answer. Measured on LoCoMo.
        recency_weight: what recency (0..1) adds; chosen.
        recency_half_life: seconds after which an episode's recency has halved; chosen.
        same_fact: cosine of two episodes of one speaker from which they speak of the same thing; chosen.
        superseded_weight: what is subtracted from the older of two that speak of the same thing; chosen.
        same_ask: cosine of a question and an earlier one from which they ask the same. Chosen: with mpnet paraphrases
            were read at 0.79 to 0.95, questions about another thing of the same kind at 0.66 to 0.78.
        summarised_weight: what is subtracted from an episode that a summary sums up; chosen.
        summarised_share: share of an episode's words that must be in the summary for that; chosen.
        compared: how many of the best episodes are compared with each other for ``same_fact``, and considered for a
            turn.
        max_hits: episodes that a turn is shown at most.
        token_budget: tokens of recalled questions and answers together.
        history_tokens: tokens of a session's last turns, for who asks for its history; whole turns, the newest first.
        history_timeout: seconds that such a turn waits for the record and projection of what was answered before it.
        hit_characters: characters of one question, and of one answer; longer ones are cut in the middle.
        candidates: episodes that the vector and the words each bring before fusion, at least ``max_hits``.
        sleep_age: seconds after which an episode is old enough to be summed up; chosen.
        sleep_every: seconds between two sleeps of a running agent; 0 sleeps only on request.
        sleep_alike: mean cosine from which episodes share a summary; chosen.
        sleep_least: fewest episodes of one summary; ``sleep_most`` is the most.
        sleep_tokens: tokens of a summary at most; ``sleep_timeout`` seconds may pass until it is written.
        recall_timeout: seconds after which a turn goes on without recall.
        concurrency: turns handled at once.
        projection_batch: episodes that are projected together at most, with one sync to disk.
        projection_ack_wait: seconds after which episodes that a dead memory was projecting are given to the next one.
        optimise_after: new episodes after which Atlas is optimised; or a quarter of those it had, if that is more.
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
    store_timeout: Annotated[float, Meta(gt=0.0)] = 10.0
    vector_size: int = 768
    tokenizer: Path | None = None
    language: str = "english"
    relevance_floor: float = 0.4
    impersonal_floor: float = 0.5
    impersonal_coverage: float = 0.5
    floor_coverage: float = 0.6
    floor_words: int = 2
    lexical_weight: float = 0.3
    speaker_weight: float = 0.15
    question_weight: float = 0.08
    recency_weight: float = 0.03
    recency_half_life: float = 7 * 86400.0
    same_fact: float = 0.85
    superseded_weight: float = 0.1
    same_ask: float = 0.79
    summarised_weight: float = 0.05
    summarised_share: float = 0.5
    compared: int = 24
    max_hits: int = 4
    token_budget: int = 600
    history_tokens: Annotated[int, Meta(ge=0)] = 1024
    history_timeout: Annotated[float, Meta(ge=0.0)] = 2.0
    hit_characters: int = 600
    candidates: int = 32
    sleep_age: float = 7 * 86400.0
    sleep_every: float = 0.0
    sleep_alike: float = 0.5
    sleep_least: int = 3
    sleep_most: int = 8
    sleep_tokens: int = 160
    sleep_timeout: float = 300.0
    recall_timeout: float = 1.0
    concurrency: int = 16
    projection_batch: int = 16
    projection_ack_wait: Annotated[float, Meta(gt=0.0)] = 30.0
    optimise_after: int = 20_000
    lock_timeout: float = 3.0
    status_interval: float = 2.0
    graph_buffer: int = 128 * 1024**2
