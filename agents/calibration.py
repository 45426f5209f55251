"""Label scores without the model's habit: contextual calibration (arXiv 2102.09690).

A model prefers some labels whatever it is asked. Its scores under the same prompt with nothing in it ("N/A")
measure that habit; taking them away leaves what the content says.
"""

import math
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence

import anyio

from schemas.chat import Message
from schemas.stages import AdapterUse

BLANK = "N/A"
"""Stands for the content in a content-free prompt."""

REMEMBERED = 1024
"""Priors kept in a process; one for each prompt, set of adapters and model."""

Score = Callable[[], Awaitable[dict[str, float]]]


def calibrated(scores: Mapping[str, float], prior: Mapping[str, float]) -> dict[str, float]:
    """Natural-log probabilities over the labels (they sum to 1), with the prior divided out.

    Args:
        scores: total natural-log probability of each label after the real prompt.
        prior: the same after the content-free prompt; the same labels.
    """
    raw = {label: score - prior[label] for label, score in scores.items()}
    top = max(raw.values())
    total = top + math.log(sum(math.exp(value - top) for value in raw.values()))
    return {label: value - total for label, value in raw.items()}


class Priors:
    """The habits measured so far: each is asked once in a process, also by many turns at a time."""

    def __init__(self) -> None:
        self._known: OrderedDict[Key, dict[str, float]] = OrderedDict()
        self._asking: dict[Key, anyio.Lock] = {}

    def __len__(self) -> int:
        return len(self._known)

    async def of(self, key: "Key", score: Score) -> dict[str, float]:
        """The prior of ``key``; ``score`` asks the model when it is not known yet.

        Raises:
            KikiError: the model could not say; nothing is remembered, and the next turn asks again.
        """
        lock = self._asking.setdefault(key, anyio.Lock())
        try:
            async with lock:
                if key not in self._known:
                    self._known[key] = await score()
                    while len(self._known) > REMEMBERED:
                        self._known.popitem(last=False)
                return self._known[key]
        finally:
            if not lock.locked():
                self._asking.pop(key, None)


Key = tuple[str, tuple[str, ...], tuple[AdapterUse, ...], tuple[str, ...]]
"""Model digest, labels, adapters, and the texts of the content-free prompt."""


def key(model_digest: str, labels: Sequence[str], adapters: Sequence[AdapterUse], messages: Sequence[Message]) -> Key:
    """What a prior depends on."""
    return (model_digest, tuple(labels), tuple(adapters), tuple(message.content for message in messages))
