"""KnowBias (arXiv 2601.21864) on a model that is not serving: finds its neurons, and tries a factor on
them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean

import mlx.core as mx
import msgspec

from agents.inference.adapters.mixed import RoutedModel, Rows
from agents.inference.adapters.modules import ModulePlaces
from agents.inference.knowbias.enhancement import enhance
from agents.inference.knowbias.gates import gates
from agents.inference.knowbias.neurons import SHARE, THRESHOLD, Neurons, NeuronTally, check_fit
from agents.inference.mlx import loading
from agents.inference.mlx.scoring import Ballots
from agents.inference.probing import questions
from agents.inference.probing.attribution import STEPS, Attribution
from agents.inference.probing.questions import CHOICES, BiasQuestion
from agents.inference.settings import InferenceSettings
from schemas.errors import SetupError

OnAdvance = Callable[[], None]
AT_ONCE = 24
"""Questions in one batch."""


@dataclass(frozen=True, kw_only=True)
class ProbeOptions:
    """How neurons are found; the defaults are the paper's. ``at_once``: steps in one batch, which bounds the memory."""

    steps: int = STEPS
    threshold: float = THRESHOLD
    share: float = SHARE
    at_once: int = STEPS


class Probe:
    """Finds the neurons that a model uses to answer the questions that are not held out.

    ``total`` is the number of steps of :meth:`run`: one for each gate of each prompt.

    Raises:
        SetupError: the model cannot be loaded, has no gates, or begins both answers with the same token.
    """

    def __init__(
        self, settings: InferenceSettings, bias_questions: Sequence[BiasQuestion], options: ProbeOptions
    ) -> None:
        self._settings, self._questions, self._options = settings, bias_questions, options
        self._prompts = [question for question in bias_questions if not question.held_out]
        self._bundle = loading.load(settings)
        self._gates = gates(self._bundle.model)
        if not self._gates:
            raise SetupError(f"{settings.model_name} has no gate_proj that KnowBias could probe.", param="model")
        self._answers = {choice: self._bundle.encoder.encode_plain(choice)[0] for choice in CHOICES}
        if len(set(self._answers.values())) < len(CHOICES):
            raise SetupError(
                f"{settings.model_name} begins {' and '.join(CHOICES)} with the same token.", param="model"
            )
        self.total = len(self._prompts) * len(self._gates)

    def run(self, on_advance: OnAdvance = lambda: None) -> Neurons:
        """The neurons; ``on_advance`` is called after each gate of each prompt.

        Raises:
            SetupError: no neuron matters for enough of the prompts.
        """
        options, tally = self._options, NeuronTally(self._gates, threshold=self._options.threshold)
        attribution = Attribution(self._bundle.model, self._gates, steps=options.steps, at_once=options.at_once)
        for question in self._prompts:
            tokens = self._bundle.encoder.encode(question.messages).tokens
            tally.add(attribution(tokens, self._answers[question.gold], on_advance=on_advance))
            mx.clear_cache()
        if not (by_gate := tally.select_shared(options.share)):
            raise SetupError(f"no neuron matters for more than {options.share:.0%} of the prompts.", param="share")
        return Neurons(
            model=self._settings.model_name,
            model_digest=self._settings.model_digest,
            questions=questions.digest(self._questions),
            prompts=tally.prompts,
            steps=options.steps,
            threshold=options.threshold,
            share=options.share,
            gates=by_gate,
        )


class ProbeAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """How a model answers one question: natural-log probabilities of the gold answer and of the other."""

    question: BiasQuestion
    gold: float
    other: float


class ProbeFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Means over questions: the gold answer's log-probability, its lead over the other, and the share that it leads."""

    gold: float
    lead: float
    right: float


def figures(answers: Sequence[ProbeAnswer]) -> ProbeFigures:
    """The means of ``answers``, which is not empty."""
    return ProbeFigures(
        gold=fmean(answer.gold for answer in answers),
        lead=fmean(answer.gold - answer.other for answer in answers),
        right=fmean(answer.gold > answer.other for answer in answers),
    )


class Trial:
    """A model with its ``neurons``, to be asked with and without a factor on them.

    Raises:
        SetupError: the model cannot be loaded, or the neurons belong to another model.
    """

    def __init__(self, settings: InferenceSettings, neurons: Neurons) -> None:
        self._bundle = loading.load(settings)
        check_fit(neurons, gates(self._bundle.model), model_digest=settings.model_digest)
        rows = Rows()
        enhance(ModulePlaces(self._bundle.model), neurons, rows)
        self._model, self._step = RoutedModel(self._bundle.model, rows), settings.prefill_step
        self._choices = [self._bundle.encoder.encode_plain(choice) for choice in CHOICES]

    def answer_questions(
        self, bias_questions: Sequence[BiasQuestion], *, factor: float, on_advance: OnAdvance = lambda: None
    ) -> list[ProbeAnswer]:
        """How ``bias_questions`` are answered with ``factor`` on the neurons; ``on_advance`` is called for each
        question."""
        answers: list[ProbeAnswer] = []
        for start in range(0, len(bias_questions), AT_ONCE):
            batch = bias_questions[start : start + AT_ONCE]
            prompts = [self._bundle.encoder.encode(question.messages).tokens for question in batch]
            ballots = Ballots(self._model, self._model.make_cache(factor=factor), prompts, self._choices)
            while not ballots.advance(self._step):
                pass
            answers += [_make_answer(question, scores) for question, scores in zip(batch, ballots.scores, strict=True)]
            for _ in batch:
                on_advance()
        return answers


def _make_answer(question: BiasQuestion, scores: Sequence[float]) -> ProbeAnswer:
    logprobs = dict(zip(CHOICES, scores, strict=True))
    gold = logprobs.pop(question.gold)
    (other,) = logprobs.values()
    return ProbeAnswer(question=question, gold=gold, other=other)
