"""Settings of the negotiator. The papers give no numbers for these, so this project chose every threshold."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

Share = Annotated[float, Meta(ge=0.0, le=1.0)]


class NegotiatorSettings(Struct, frozen=True, kw_only=True):
    """How the panel decides and how long it may take.

    Attributes:
        strong_agreement: share of the candidates that must say the same for a turn of low stakes to end without a
            vote.
        vote_from: weights of a model from which its members vote; smaller ones leave it to agreement. Measured, see
            docs/results.md.
        when_split: which candidate goes on where no answer has most candidates and nobody votes: the "first", which is
            decoded greedily unless the request or its model id has a temperature, or the "likeliest" to the attending.
        neutral_margin: a vote whose best label leads the next by less than this many nats is NEUTRAL.
        argument_tokens: length of an argument that is requested from the member with the firmest vote on each of two
            contested candidates, for the judge to read; 0 asks for none, because a text costs as much as many votes.
        debias: whether the attending reads about its biases and decides again (RBD).
        verbosity_ratio: how much longer one of two answers must be for its length to be suspected.
        sentiment_terms: how many more words of feeling one must have for its tone to be suspected.
        dissent_wait: seconds, from the delivery of the turn, that the catfish is waited for.
        job_timeout: seconds for one ballot or comparison.
        embed_timeout: seconds for the embeddings that show who agrees.
        jobs_at_once: calls to the model in flight for one turn.
        reserve: seconds before the turn's deadline that are left to the stages behind.
        excerpt_chars: characters of each answer that a ballot shows.
        concurrency: turns handled at once.
    """

    strong_agreement: Share = 0.6
    vote_from: int = 1_000_000_000
    when_split: Literal["first", "likeliest"] = "first"
    neutral_margin: float = 0.25
    argument_tokens: Annotated[int, Meta(ge=0, le=512)] = 0
    debias: bool = True
    verbosity_ratio: Annotated[float, Meta(ge=1.0)] = 1.5
    sentiment_terms: Annotated[int, Meta(ge=1)] = 2
    dissent_wait: float = 15.0
    job_timeout: float = 30.0
    embed_timeout: float = 5.0
    jobs_at_once: int = 8
    reserve: float = 3.0
    excerpt_chars: int = 4000
    concurrency: int = 16
