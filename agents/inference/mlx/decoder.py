"""All that the model's thread has: the model, its adapters, who waits and who runs.

A step drops what nobody wants any more, admits from the scheduler, processes one piece of a prompt and decodes one
token for every row.
"""

import time
from typing import Any

import mlx.core as mx
from mlx_lm.generate import BatchGenerator

from agents.inference.adapters import administration
from agents.inference.adapters.bank import AdapterBank
from agents.inference.adapters.mixed import Routed
from agents.inference.knowbias import neurons
from agents.inference.knowbias.enhancement import enhance
from agents.inference.knowbias.gates import gates
from agents.inference.mlx import loading
from agents.inference.mlx.admission import Admission, taken
from agents.inference.mlx.batch import Batch
from agents.inference.mlx.prompt_cache import Cost, PrefixCache, cost, only_at_its_end
from agents.inference.mlx.work import News, Work
from agents.inference.settings import InferenceSettings
from bus.metrics import degraded
from schemas.adapters import AdapterInfo
from schemas.errors import DeadlineExceeded, KikiError
from schemas.findings import AdapterUse
from schemas.jobs import LANES

PREFILL_ROWS = 8
"""Prompts that mlx-lm processes together at most."""


class Decoder:
    """Loads the model and decodes one token.

    Raises:
        SetupError: the model, the adapters folder or the neurons cannot be used.
    """

    def __init__(self, settings: InferenceSettings) -> None:
        loaded = loading.load(settings)
        self.device, self.encoder, self.grammars = loaded.device, loaded.encoder, loaded.grammars
        self.parameters = loaded.parameters
        self.bank = AdapterBank(
            loaded.model,
            settings.adapters,
            budget=settings.adapter_bytes,
            dtype=loaded.dtype,
            seats=settings.max_mixed,
        )
        self.factor = _enhancement(settings, loaded.model, self.bank)
        model = Routed(loaded.model, self.bank.rows)
        row, whole_only = _measured(model)
        beside = int(mx.get_active_memory()) + settings.adapter_bytes + settings.prefix_bytes
        room = settings.kv_bytes or max(row.of(self.encoder.context_tokens), loaded.memory - beside)
        self.admission = Admission(settings, self.bank, cost=row, max_bytes=room)
        self.batch = Batch(
            settings,
            loaded,
            model,
            generator=_generator(settings, loaded, model),
            prefixes=PrefixCache(max_bytes=settings.prefix_bytes, bits=settings.prefix_bits),
            whole_only=whole_only,
        )

    @property
    def stream(self) -> Any:
        """The context in which steps run."""
        return mx.stream(self.batch.generator.stream)

    @property
    def busy(self) -> bool:
        """Whether anybody waits or runs."""
        return bool(self.batch.active or len(self.admission.scheduler))

    @property
    def crowded(self) -> bool:
        """Whether several wait or run."""
        return len(self.batch.active) + len(self.admission.scheduler) > 1

    def enqueue(self, work: Work) -> None:
        """Have it wait for the batch."""
        work.factor = self.factor if work.request.enhance else 1.0
        self.admission.enqueue(work)

    def step(self) -> None:
        """Everybody one token further."""
        self._drop_unwanted()
        self._admit()
        self.batch.prefill()
        self.batch.decode()

    def prefetch(self, uses: tuple[AdapterUse, ...]) -> None:
        """Make registered adapters resident; a failure is counted, and told by the requests that meet it."""
        for use in uses:
            if self.bank.registered(use.name):
                try:
                    self.bank.load(use.name)
                except KikiError as error:
                    degraded("adapter.prefetch", error.message)

    def forget(self) -> None:
        """Drop the prompts that were kept for later ones."""
        self.batch.forget()

    def administer(self, verb: str, name: str, sha256: str) -> AdapterInfo:
        """An administrator's verb; adapters of running rows are left alone.

        Raises:
            StageFailed: code ``adapter_failed``.
        """
        return administration.perform(self.bank, verb, name, taken=taken(self.batch.active), sha256=sha256)

    @property
    def taken(self) -> set[int]:
        """Seats of running rows."""
        return taken(self.batch.active)

    def using(self, name: str) -> bool:
        """Whether running rows use an adapter."""
        return any(use.name == name for work in self.batch.active for use in work.adapters)

    def tell_all(self, news: News) -> None:
        """Tell everybody who waits or runs."""
        for work in [*self.batch.active, *self.admission.scheduler.items()]:
            work.tell(news)

    @property
    def gauges(self) -> dict[str, float]:
        """Counts, bytes and milliseconds; read from other threads."""
        scheduler, batch, bank = self.admission.scheduler, self.batch, self.bank
        return {
            **{f"queue_{lane}": float(scheduler.depth(lane)) for lane in LANES},
            "kv_bytes_promised": float(sum(work.bytes for work in list(batch.active))),
            "kv_bytes_limit": float(scheduler.max_bytes or 0),
            **batch.gauges,
            "adapter_swaps_total": float(bank.swaps),
            "last_swap_ms": bank.last_swap_ms,
            "adapter_resident_bytes": float(bank.resident_bytes),
        }

    def _admit(self) -> None:
        if not (admitted := self.admission.admit(self.batch.active)):
            return
        self.batch.active += admitted
        self.admission.mount(self.batch.active)
        for work in admitted:
            self.batch.begin(work)

    def _drop_unwanted(self) -> None:
        now, scheduler = time.time(), self.admission.scheduler
        for work in [*self.batch.active, *scheduler.items()]:
            if not work.unwanted and work.request.deadline <= now:
                work.tell(DeadlineExceeded("the deadline passed while the model was at it."))
                work.unwanted = True
        scheduler.discard(work for work in scheduler.items() if work.unwanted)
        for work in [work for work in self.batch.active if work.unwanted]:
            self.batch.leave(work)


def _enhancement(settings: InferenceSettings, model: Any, bank: AdapterBank) -> float:
    """Cover the gates of the configured neurons; without any the model is left as it is.

    Returns:
        The factor of rows whose request asks for it; 1.0 without neurons.

    Raises:
        SetupError: the file cannot be read, or its neurons are another model's.
    """
    if settings.knowbias is None:
        return 1.0
    found = neurons.fitting(neurons.read(settings.knowbias), gates(model), model_digest=settings.model_digest)
    enhance(bank.places, found, bank.rows)
    return settings.knowbias_factor


def _measured(model: Routed) -> tuple[Cost, bool]:
    """What a row of the batch costs, and whether its caches cannot be cut."""
    cache = model.make_cache()
    whole_only = only_at_its_end(cache)
    mx.eval(model(mx.array([[1]]), cache=cache))
    return cost(cache[:-1]), whole_only


def _generator(settings: InferenceSettings, loaded: loading.Loaded, model: Routed) -> BatchGenerator:
    """mlx-lm's continuous batching; it has decoded one token."""
    made = BatchGenerator(
        model,
        stop_tokens=[[token] for token in sorted(loaded.tokenizer.eos_token_ids)],
        completion_batch_size=settings.max_batch,
        prefill_batch_size=min(PREFILL_ROWS, settings.max_batch),
        prefill_step_size=settings.prefill_step,
    )
    made.insert([list(loaded.encoder.plain("Hello."))], max_tokens=[1])
    while not made.next()[1]:
        pass
    return made
