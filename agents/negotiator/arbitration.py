"""Has the attending (the base model) compare two candidates in both orders, and again when a bias is found."""

from collections.abc import Mapping

from prometheus_client import Counter

from agents.negotiator import debias, prompts
from agents.negotiator.debias import JudgedPair, Lean
from agents.negotiator.settings import NegotiatorSettings
from agents.shared.model import Consultation
from bus import metrics
from schemas.chat import Message
from schemas.findings import Arbitration, Bias, RecalledEpisode

FOUND = Counter("kiki_judge_biases", "Biases found in an arbitration", ["bias"], registry=metrics.REGISTRY)
ARBITRATED = Counter(
    "kiki_arbitrations", "Arbitrations by what reading about its biases changed", ["verdict"], registry=metrics.REGISTRY
)


class Arbiter:
    """The attending as the judge of one turn.

    Args:
        conversation: the turn's messages, which every comparison goes on from.
        recall: the episodes that its prompt quotes.
        objection: the catfish's, when it raised one.
    """

    def __init__(
        self,
        model: Consultation,
        settings: NegotiatorSettings,
        *,
        conversation: tuple[Message, ...],
        recall: tuple[RecalledEpisode, ...],
        objection: str | None,
    ) -> None:
        self._model = model
        self._settings = settings
        self._conversation = conversation
        self._recall = recall
        self._objection = objection

    async def compare(
        self, first: int, second: int, *, answers: Mapping[int, str], votes: tuple[str, str] | None = None
    ) -> Arbitration:
        """Compare two candidates; :func:`winner` reads the result.

        Raises:
            KikiError: the model did not answer.
        """
        pair = JudgedPair(first=answers[first], second=answers[second], votes=votes)
        variants: dict[Bias, JudgedPair] = {}
        if self._settings.debias:
            ratio, terms = self._settings.verbosity_ratio, self._settings.sentiment_terms
            variants = debias.pairs_without_causes(pair, verbosity_ratio=ratio, sentiment_terms=terms)
        with self._model.step("arbitration"):
            plain, *leans = await self._measure_leans([pair, *variants.values()])
        findings = debias.findings(plain, dict(zip(variants, leans, strict=True))) if self._settings.debias else ()
        second_lean = None
        if findings:
            with self._model.step("arbitration again"):
                (second_lean,) = await self._measure_leans([pair], analysis=debias.analysis(findings))
        arbitration = Arbitration(
            first=first,
            second=second,
            lean=plain.lean,
            swapped=plain.swapped,
            findings=findings,
            again=(second_lean.lean, second_lean.swapped) if second_lean is not None else None,
            changed=second_lean is not None and second_lean.both * plain.both < 0,
        )
        _count(arbitration)
        return arbitration

    async def _measure_leans(self, pairs: list[JudgedPair], *, analysis: str = "") -> list[Lean]:
        """Measure the lean for each pair, in both orders, in one job."""
        ballots = [
            prompts.comparison(
                ordered_pair.first,
                ordered_pair.second,
                objection=self._objection,
                votes=ordered_pair.votes,
                analysis=analysis,
            )
            for pair in pairs
            for ordered_pair in (pair, pair.swapped)
        ]
        scores = await self._model.score_ballots(self._conversation, ballots, prompts.LETTERS, recall=self._recall)
        return [
            Lean(lean=forward["A"] - forward["B"], swapped=backward["B"] - backward["A"])
            for forward, backward in zip(scores[::2], scores[1::2], strict=True)
        ]


def winner(arbitration: Arbitration) -> int | None:
    """The candidate that both orders prefer in the end; None when the order still decides."""
    lean, swapped_lean = arbitration.again or (arbitration.lean, arbitration.swapped)
    if lean * swapped_lean <= 0:
        return None
    return arbitration.first if lean > 0 else arbitration.second


def _count(arbitration: Arbitration) -> None:
    for finding in arbitration.findings:
        FOUND.labels(finding.bias).inc()
    verdict = "changed" if arbitration.changed else "upheld"
    ARBITRATED.labels("unbiased" if arbitration.again is None else verdict).inc()
