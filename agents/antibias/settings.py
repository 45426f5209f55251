"""Settings of the bias check. The paper gives no numbers for these, so this project chose every threshold."""

from msgspec import Struct


class AntibiasSettings(Struct, frozen=True, kw_only=True):
    """When an answer counts as biased and what a revision may cost.

    Attributes:
        judge_from: weights of a model from which its judgement counts; answers of smaller ones pass as undecided.
            Measured, see docs/results.md.
        threshold: calibrated probability, over both framings of the check, from which an answer counts as unfair.
        doubt: nats of log-odds between the two framings of the check, on different sides of the threshold, from which
            the model contradicts itself and nothing is decided.
        framing_tokens: upper bound of the question in another framing, written before a revision; 0 leaves it out.
        guideline_tokens: upper bound of the rule written from both framings; 0 leaves it out.
        max_tokens: upper bound of a revision; the client's own ``max_tokens`` bounds it too.
        job_timeout: seconds for one check or one revision.
        reserve: seconds before the turn's deadline in which nothing is begun.
        excerpt_chars: characters of the question, and of the answer, that a check shows.
        concurrency: turns handled at once.
        refusal_en: the neutral answer, when a revision is still unfair.
        refusal_fr: the same in French.
    """

    judge_from: int = 1_000_000_000
    threshold: float = 0.7
    doubt: float = 2.0
    framing_tokens: int = 48
    guideline_tokens: int = 64
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
