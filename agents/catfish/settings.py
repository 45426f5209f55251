"""Settings of the catfish. The paper gives no numbers for these, so this project chose every threshold."""

from msgspec import Struct


class CatfishSettings(Struct, frozen=True, kw_only=True):
    """When the catfish engages, how it sounds and how long it may take.

    Attributes:
        complexity: score in 0..1 from which a question is worth an objection.
        confident_logprob: mean natural-log probability per token from which a lone candidate is accepted without an
            objection.
        engage_from: weights of a model from which it objects; smaller ones do not. Measured, see docs/results.md.
        firm_agreement: mean probability that two candidates say the same from which the objection is firm.
        strong_agreement: the same for a strong one.
        max_tokens: length of the objection.
        excerpt_chars: characters of the question, and of each answer, that the prompt shows.
        shown: candidates that the prompt shows.
        timeout: seconds for the objection; below the negotiator's ``dissent_wait``, or it comes too late.
        embed_timeout: seconds for the embeddings.
        reserve: seconds before the turn's deadline in which nothing is begun.
        concurrency: turns handled at once.
    """

    complexity: float = 0.3
    confident_logprob: float = -0.15
    engage_from: int = 1_000_000_000
    firm_agreement: float = 0.5
    strong_agreement: float = 0.9
    max_tokens: int = 64
    excerpt_chars: int = 2000
    shown: int = 3
    timeout: float = 12.0
    embed_timeout: float = 5.0
    reserve: float = 4.0
    concurrency: int = 16
