"""Settings of the negotiator. The paper gives no numbers for these, so every threshold is ours."""

from msgspec import Struct


class NegotiatorSettings(Struct, frozen=True, kw_only=True):
    """How the panel votes and how long it may take.

    Attributes:
        neutral_margin: a vote whose best label leads the next by less than this many nats is NEUTRAL; ours.
        dissent_wait: seconds, from the delivery of the turn, that the catfish is waited for.
        job_timeout: seconds for one vote or comparison.
        jobs_at_once: calls to the model in flight for one turn.
        reserve: seconds before the turn's deadline that are left to the stages behind.
        excerpt_chars: characters of the question, and of each answer, that a ballot shows.
        concurrency: turns in hand at once.
    """

    neutral_margin: float = 0.25
    dissent_wait: float = 15.0
    job_timeout: float = 30.0
    jobs_at_once: int = 8
    reserve: float = 3.0
    excerpt_chars: int = 4000
    concurrency: int = 16
