"""The bank of resident adapters: read once, kept under a byte budget, put into the model in place.

The base weights are never touched. A changed module is a wrapper around the base module, made once; activating
swaps the wrapper's low-rank tensors, and "no adapter" puts the base modules themselves back, so the base's results
are bit for bit what they were. All methods belong to the thread that owns the model.
"""

import re
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
from mlx_lm.models.switch_layers import QuantizedSwitchLinear, SwitchLinear
from mlx_lm.tuner.lora import LoRAEmbedding, LoRALinear, LoRASwitchLinear

from agents.inference.lowrank import CONFIG, WEIGHTS, Adapter, Pair, combine, failed, read
from schemas.errors import KikiError, SetupError
from schemas.stages import AdapterUse

_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,127}")
PROBE = (1, 2, 3, 5, 8)
"""Token ids whose logits show whether a fresh adapter changes anything."""


@dataclass(frozen=True)
class _Resident:
    adapter: Adapter
    stamp: tuple[int, int]


class AdapterBank:
    """Adapters of one folder for one model. ``folder`` None: there are none; ``budget`` in bytes.

    Raises:
        SetupError: the folder does not exist.
    """

    def __init__(self, model: Any, folder: Path | None, *, budget: int, dtype: Any | None = None) -> None:
        if folder is not None and not folder.is_dir():
            raise SetupError(f"no adapters folder at {folder}: create it, or leave the setting out.", param="adapters")
        self._model, self._folder, self._budget, self._dtype = model, folder, budget, dtype
        self._base: dict[str, Any] = dict(model.named_modules())
        self._wrappers: dict[str, Any] = {}
        self._mounted: dict[str, Pair] = {}
        self._resident: OrderedDict[str, _Resident] = OrderedDict()
        self._proven: set[str] = set()
        self._probe = self._probe_logits()
        self.active: tuple[AdapterUse, ...] = ()
        self.swaps = 0

    @property
    def resident_bytes(self) -> int:
        """Bytes of the adapters kept."""
        return sum(resident.adapter.nbytes for resident in self._resident.values())

    @property
    def resident(self) -> tuple[str, ...]:
        """Names of the adapters kept, the least recently used first."""
        return tuple(self._resident)

    def registered(self, name: str) -> bool:
        """Whether the folder holds an adapter of that name; a name is never a path."""
        if self._folder is None or _NAME.fullmatch(name) is None:
            return False
        return (self._folder / name / WEIGHTS).is_file() and (self._folder / name / CONFIG).is_file()

    def load(self, name: str) -> Adapter:
        """The adapter, resident from now on; read again if its file has changed.

        Raises:
            StageFailed: code ``adapter_failed``.
        """
        if self._folder is None or not self.registered(name):
            raise failed(name, "it is not registered")
        folder = self._folder / name
        status = (folder / WEIGHTS).stat()
        stamp = (status.st_mtime_ns, status.st_size)
        kept = self._resident.get(name)
        if kept is not None and kept.stamp == stamp:
            self._resident.move_to_end(name)
            return kept.adapter
        adapter = read(folder, self._base, dtype=self._dtype)
        if adapter.nbytes > self._budget:
            raise failed(name, f"it has {adapter.nbytes} bytes and the budget is {self._budget}")
        self._resident[name] = _Resident(adapter, stamp)
        self._resident.move_to_end(name)
        while self.resident_bytes > self._budget:
            self._resident.popitem(last=False)
        return adapter

    def activate(self, uses: Sequence[AdapterUse]) -> tuple[AdapterUse, ...]:
        """Put exactly these adapters into the model; none restores the base.

        Returns:
            The adapters with the digests really used.

        Raises:
            StageFailed: code ``adapter_failed``; the model is as it was before.
        """
        adapters = [self.load(use.name) for use in uses]
        for use, adapter in zip(uses, adapters, strict=True):
            if use.sha256 and use.sha256 != adapter.sha256:
                raise failed(use.name, f"its sha256 is {adapter.sha256}, but {use.sha256} was asked for")
        pairs = combine([(adapter, use.weight) for adapter, use in zip(adapters, uses, strict=True)])
        before = self._mounted
        try:
            mx.eval([(pair.a, pair.b) for pair in pairs.values()])
            self._mount(pairs)
            self._prove(adapters)
        except (KikiError, RuntimeError, ValueError) as error:
            self._mount(before)
            if isinstance(error, KikiError):
                raise
            raise failed("+".join(use.name for use in uses), str(error)) from error
        self.active = tuple(
            AdapterUse(name=use.name, weight=use.weight, sha256=adapter.sha256)
            for use, adapter in zip(uses, adapters, strict=True)
        )
        self.swaps += 1
        return self.active

    def _prove(self, adapters: Sequence[Adapter]) -> None:
        """The first time an adapter is active, the logits must differ from the base's."""
        fresh = {adapter.sha256 for adapter in adapters} - self._proven
        if not fresh:
            return
        logits = self._probe_logits()
        if bool(mx.all(logits == self._probe)) or not bool(mx.all(mx.isfinite(logits))):
            raise failed(
                "+".join(adapter.name for adapter in adapters), "the model's logits do not change, or overflow"
            )
        self._proven |= fresh

    def _probe_logits(self) -> mx.array:
        logits: mx.array = self._model(mx.array([PROBE]))[0, -1]
        mx.eval(logits)
        return logits

    def _mount(self, pairs: dict[str, Pair]) -> None:
        gone = self._mounted.keys() - pairs.keys()
        self._mounted = self._mounted | pairs  # before the first change, so that a failed one is undone whole
        for path in gone:
            _put(self._model, path, self._base[path])
        for path, pair in pairs.items():
            wrapper = self._wrapper(path)
            wrapper.lora_a, wrapper.lora_b = pair.a, pair.b
            _put(self._model, path, wrapper)
        self._mounted = pairs

    def _wrapper(self, path: str) -> Any:
        if path not in self._wrappers:
            self._wrappers[path] = _wrapped(self._base[path])
        return self._wrappers[path]


def _wrapped(base: Any) -> Any:
    kinds = (
        ((SwitchLinear, QuantizedSwitchLinear), LoRASwitchLinear),
        ((nn.Embedding, nn.QuantizedEmbedding), LoRAEmbedding),
    )
    kind = next((wrapper for bases, wrapper in kinds if isinstance(base, bases)), LoRALinear)
    wrapper = kind.from_base(base, r=1, dropout=0.0, scale=1.0)
    wrapper.eval()
    return wrapper


def _put(model: Any, path: str, module: Any) -> None:
    *parents, leaf = path.split(".")
    place = model
    for part in parents:
        place = place[int(part)] if isinstance(place, list) else place[part]
    place[int(leaf) if isinstance(place, list) else leaf] = module
