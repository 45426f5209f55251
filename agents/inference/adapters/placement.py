"""What of the adapters is in the model now: pairs in place for all rows, or the stacks of seats side by side."""

from typing import Any

import mlx.core as mx
from mlx_lm.tuner.lora import LoRAEmbedding, LoRALinear, LoRASwitchLinear

from agents.inference.adapters import mixed as mixing
from agents.inference.adapters.modules import ModulePlaces
from agents.inference.adapters.pairs import LowRankPair
from agents.inference.adapters.stacks import SeatStacks


class Placement:
    """Puts pairs or ``stacks`` into the ``places`` of a model: ``pairs`` are in place, or the stacks (``mixed``)."""

    def __init__(self, places: ModulePlaces, stacks: SeatStacks) -> None:
        self._places, self._base, self._stacks = places, places.base, stacks
        self._wrappers: dict[str, Any] = {}
        self.pairs: dict[str, LowRankPair] = {}
        self.mixed = False

    def put(self, pairs: dict[str, LowRankPair]) -> None:
        """Put these pairs in place for all rows, and take out what was there; without pairs the base is as it was."""
        if self.mixed:
            self._stacks.remove()
        self.mixed = False
        paths_to_restore = self.pairs.keys() - pairs.keys()
        self.pairs = self.pairs | pairs  # before the first change, so that a failed one is undone whole
        for path in paths_to_restore:
            self._places.put(path, self._base[path])
            self._wrappers[path].lora_a = self._wrappers[path].lora_b = mx.zeros((0,))
        for path, pair in pairs.items():
            wrapper = self._wrapper(path)
            wrapper.lora_a, wrapper.lora_b = pair.a, pair.b
            self._places.put(path, wrapper)
        self.pairs = pairs

    def put_stacks(self) -> None:
        """Put the stacks into the model, and take out the pairs that were in place."""
        self.put({})
        self._stacks.put()
        self.mixed = True

    def _wrapper(self, path: str) -> Any:
        if path not in self._wrappers:
            self._wrappers[path] = wrap_module(self._base[path])
        return self._wrappers[path]


def wrap_module(base: Any) -> Any:
    """mlx-lm's wrapper of a base module, whose pair is to be set; in evaluation mode."""
    kinds = ((mixing.SWITCHES, LoRASwitchLinear), (mixing.EMBEDDINGS, LoRAEmbedding))
    kind = next((wrapper for bases, wrapper in kinds if isinstance(base, bases)), LoRALinear)
    wrapper = kind.from_base(base, r=1, dropout=0.0, scale=1.0)
    wrapper.eval()
    return wrapper
