"""Measures, on a model that is not serving, what an adapter wins against the base, alone and with another beside it.

The probes are questions with choices. Each choice is scored by its log-probability after the question; a probe is won
when the right choice is likelier, among the choices, than it is with the base alone, and half won in a tie. The share
won is the win rate. Adapters side by side are added, each with weight 1.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from agents.inference.adapters.modules import ModulePlaces
from agents.inference.adapters.placement import wrap_module
from agents.inference.mlx import loading
from agents.inference.settings import InferenceSettings
from agents.shared.adapters.files import AdapterFile, shorten_path
from agents.shared.adapters.rules import ModuleShape, check_fit
from agents.shared.retained import RetainedJudgement, RetainedQuestion, judgement_from_scores
from schemas.chat import Message

OnAdvance = Callable[[], None]
_DTYPES = {"BF16": mx.bfloat16, "F16": mx.float16}
PROBE = (1, 2, 3, 5, 8)
"""Token ids whose logits show whether an adapter changes anything."""


class ForgettingProbe:
    """A model with any adapters of folders mounted on it, and the probes that it is asked.

    Raises:
        SetupError: the model cannot be loaded.
    """

    def __init__(
        self,
        settings: InferenceSettings,
        questions: Sequence[RetainedQuestion],
        *,
        on_advance: OnAdvance = lambda: None,
    ) -> None:
        self._bundle = loading.load(settings)
        self._questions, self._on_advance = questions, on_advance
        self._places = ModulePlaces(self._bundle.model)
        self._paths = {shorten_path(path): path for path in self._places.base}
        self._mounted: set[str] = set()
        self._judgements: dict[tuple[Path, ...], RetainedJudgement] = {}

    def win_rate(self, *folders: Path) -> float:
        """The share of the probes, 0 to 1, that the adapters in these folders win against the base.

        Raises:
            UnfitAdapter: one cannot be read or does not fit the model.
        """
        return self.judge(*folders).win_rate_over(self.judge())

    def measure_drop(self, prior: Path, new: Path) -> float:
        """How much of its win rate ``prior`` loses when ``new`` is beside it; negative: it wins more."""
        return self.win_rate(prior) - self.win_rate(prior, new)

    def logits_change(self, folder: Path) -> float:
        """The largest change of a logit by an adapter, on a fixed prompt; NaN when a logit is not finite."""
        self._mount(())
        base = self._logits()
        self._mount((folder,))
        change = np.abs(self._logits() - base)
        return float(change.max()) if np.isfinite(change).all() else float("nan")

    def judge(self, *folders: Path) -> RetainedJudgement:
        """How the probes are answered with the adapters in these folders; none is the base. Kept for the next call.

        Raises:
            UnfitAdapter: one cannot be read or does not fit the model.
        """
        if folders not in self._judgements:
            self._mount(folders)
            scores = []
            for question in self._questions:
                scores.append(dict(zip(question.choices, self._score(question), strict=True)))
                self._on_advance()
            self._judgements[folders] = judgement_from_scores(self._questions, scores)
        return self._judgements[folders]

    def _score(self, question: RetainedQuestion) -> list[float]:
        """The log-probability of each choice after the question, in one pass; what is padded comes after."""
        encoder = self._bundle.encoder
        prompt = list(encoder.encode((Message(role="user", content=question.question),)).tokens)
        choices = [list(encoder.encode_plain(choice)) for choice in question.choices]
        width = max(map(len, choices))
        rows = [prompt + choice + [0] * (width - len(choice)) for choice in choices]
        logits = self._bundle.model(mx.array(rows)).astype(mx.float32)[:, len(prompt) - 1 : -1]
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        targets = mx.array([row[len(prompt) :] for row in rows])
        taken: Any = mx.take_along_axis(logprobs, targets[..., None], axis=-1)[..., 0].tolist()
        return [sum(row[: len(choice)]) for row, choice in zip(taken, choices, strict=True)]

    def _logits(self) -> "np.ndarray[Any, np.dtype[np.float32]]":
        return np.array(self._bundle.model(mx.array([PROBE]))[0].astype(mx.float32))

    def _mount(self, folders: Sequence[Path]) -> None:
        """Put the sum of the adapters' changes into the model, and nothing else."""
        for mounted_path in self._mounted:
            self._places.put(mounted_path, self._places.base[mounted_path])
        self._mounted.clear()
        files = [AdapterFile(folder) for folder in folders]
        for module in sorted({module for file in files for module in file.modules}):
            if module not in self._paths:
                check_fit(module, (), (), None)
            path = self._paths[module]
            parts = [file.read(module) for file in files if module in file.modules]
            left = np.concatenate([part.left for part in parts], axis=-1)
            right = np.concatenate([part.right for part in parts], axis=-2)
            dtype = _DTYPES.get(files[0].dtype, mx.float32)
            wrapper = wrap_module(self._places.base[path])
            a, b = (right, left) if left.ndim == 3 else (left, right)
            check_fit(module, a.shape, b.shape, _shape(wrapper))
            wrapper.lora_a, wrapper.lora_b = mx.array(a).astype(dtype), mx.array(b).astype(dtype)
            mx.eval(wrapper.lora_a, wrapper.lora_b)
            self._places.put(path, wrapper)
            self._mounted.add(path)


def _shape(wrapper: Any) -> ModuleShape:
    a, b = wrapper.lora_a.shape, wrapper.lora_b.shape
    return ModuleShape(a[2], b[1], a[0]) if len(a) == 3 else ModuleShape(a[0], b[1])
