"""KnowBias (arXiv 2601.21864) on a model that is not serving: find its neurons, and try what a factor on them does."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import mlx.core as mx
import msgspec

from agents.inference.adapters.mixed import Routed, Rows
from agents.inference.adapters.modules import Places
from agents.inference.knowbias.enhancement import enhance
from agents.inference.knowbias.gates import gates
from agents.inference.knowbias.neurons import SHARE, THRESHOLD, Neurons, Tally, fitting
from agents.inference.mlx import loading
from agents.inference.mlx.scoring import Ballots
from agents.inference.probing import questions
from agents.inference.probing.attribution import STEPS, Attribution
from agents.inference.probing.questions import CHOICES, Question
from agents.inference.settings import InferenceSettings
from schemas.errors import SetupError

Advanced = Callable[[], None]
AT_ONCE = 24
"""Questions in one batch."""


@dataclass(frozen=True, kw_only=True)
class Probing:
    """How neurons are found; the defaults are the paper's. ``at_once``: steps in one batch, which bounds the memory."""

    steps: int = STEPS
    threshold: float = THRESHOLD
    share: float = SHARE
    at_once: int = STEPS


class Probe:
    """Finds the neurons that a model answers questions with; those held out are left aside.

    ``total`` counts the gates of all prompts.

    Raises:
        SetupError: the model cannot be loaded, has no gates, or begins both answers alike.
    """

    def __init__(self, settings: InferenceSettings, asked: Sequence[Question], how: Probing) -> None:
        self._settings, self._asked, self._how = settings, asked, how
        self._prompts = [question for question in asked if not question.held_out]
        self._loaded = loading.load(settings)
        self._gates = gates(self._loaded.model)
        if not self._gates:
            raise SetupError(f"{settings.model_name} has no gate_proj that KnowBias could probe.", param="model")
        self._answers = {choice: self._loaded.encoder.plain(choice)[0] for choice in CHOICES}
        if len(set(self._answers.values())) < len(CHOICES):
            raise SetupError(f"{settings.model_name} begins {' and '.join(CHOICES)} with one token.", param="model")
        self.total = len(self._prompts) * len(self._gates)

    def run(self, advanced: Advanced = lambda: None) -> Neurons:
        """The neurons; ``advanced`` is called after each gate of each prompt.

        Raises:
            SetupError: no neuron is shared.
        """
        how, tally = self._how, Tally(self._gates, threshold=self._how.threshold)
        attribution = Attribution(self._loaded.model, self._gates, steps=how.steps, at_once=how.at_once)
        for question in self._prompts:
            tokens = self._loaded.encoder.encode(question.messages).tokens
            tally.add(attribution(tokens, self._answers[question.gold], advanced=advanced))
            mx.clear_cache()
        if not (shared := tally.shared(how.share)):
            raise SetupError(f"no neuron matters for more than {how.share:.0%} of the prompts.", param="share")
        return Neurons(
            model=self._settings.model_name,
            model_digest=self._settings.model_digest,
            questions=questions.digest(self._asked),
            prompts=tally.prompts,
            steps=how.steps,
            threshold=how.threshold,
            share=how.share,
            gates=shared,
        )


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """How a model answers one question: natural-log probabilities of the gold answer and of the other."""

    question: Question
    gold: float
    other: float


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """Means over questions: the gold answer's log-probability, its lead over the other, and the share that it leads."""

    gold: float
    lead: float
    right: float


def figures(answered: Sequence[Answered]) -> Figures:
    """The means of ``answered``, which is not empty."""
    return Figures(
        gold=fmean(answer.gold for answer in answered),
        lead=fmean(answer.gold - answer.other for answer in answered),
        right=fmean(answer.gold > answer.other for answer in answered),
    )


class Trial:
    """A model with its ``neurons``, to be asked with and without a factor on them.

    Raises:
        SetupError: the model cannot be loaded, or the neurons are another's.
    """

    def __init__(self, settings: InferenceSettings, neurons: Neurons) -> None:
        self._loaded = loading.load(settings)
        fitting(neurons, gates(self._loaded.model), model_digest=settings.model_digest)
        rows = Rows()
        enhance(Places(self._loaded.model), neurons, rows)
        self._model, self._step = Routed(self._loaded.model, rows), settings.prefill_step
        self._choices = [self._loaded.encoder.plain(choice) for choice in CHOICES]

    def answers(self, asked: Sequence[Question], *, factor: float, advanced: Advanced = lambda: None) -> list[Answered]:
        """How ``asked`` are answered with ``factor`` on the neurons; ``advanced`` is called for each question."""
        found: list[Answered] = []
        for start in range(0, len(asked), AT_ONCE):
            part = asked[start : start + AT_ONCE]
            prompts = [self._loaded.encoder.encode(question.messages).tokens for question in part]
            ballots = Ballots(
                self._model, self._model.make_cache(factor=factor), prompts, self._choices, step=self._step
            )
            while not ballots.advance():
                pass
            found += [_answered(question, scores) for question, scores in zip(part, ballots.scores, strict=True)]
            for _ in part:
                advanced()
        return found


def _answered(question: Question, scores: Sequence[float]) -> Answered:
    logprobs = dict(zip(CHOICES, scores, strict=True))
    gold = logprobs.pop(question.gold)
    (other,) = logprobs.values()
    return Answered(question=question, gold=gold, other=other)
