"""Settings of the bias check. The paper gives no numbers for these, so every threshold is ours."""

from msgspec import Struct


class AntibiasSettings(Struct, frozen=True, kw_only=True):
    """When an answer counts as biased and what a revision may cost.

    Attributes:
        threshold: calibrated probability of YES from which an answer counts as unfair; ours.
        max_tokens: upper bound of a revision; the client's own ``max_tokens`` bounds it too.
        job_timeout: seconds for one check or one revision.
        reserve: seconds before the turn's deadline in which nothing is begun.
        excerpt_chars: characters of the question, and of the answer, that a check shows.
        concurrency: turns in hand at once.
        refusal_en, refusal_fr: the neutral answer, when a revision is still unfair.
    """

    threshold: float = 0.7
    max_tokens: int = 256
    job_timeout: float = 30.0
    reserve: float = 0.5
    excerpt_chars: int = 4000
    concurrency: int = 16
    refusal_en: str = (
        "I would rather not answer this in a way that judges people by a group they belong to. "
        "Ask me about the facts or about a person's own situation, and I will help."
    )
    refusal_fr: str = (
        "Je préfère ne pas répondre d'une manière qui juge des personnes selon un groupe auquel elles "
        "appartiennent. Posez-moi une question sur les faits ou sur une situation précise, et je vous aiderai."
    )
