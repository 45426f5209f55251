"""What the model's thread owns: the model, its adapters, the waiting and the running work.

A step drops work that nobody waits for any more, admits work from the queue, processes one piece of a prompt and
decodes one token for every row.
"""

import time
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx_lm.generate import BatchGenerator

from agents.inference.adapters import administration
from agents.inference.adapters.bank import AdapterBank
from agents.inference.adapters.mixed import RoutedModel, Rows
from agents.inference.device_memory import choose_prefix_bits, plan_memory
from agents.inference.knowbias import neurons
from agents.inference.knowbias.enhancement import enhance
from agents.inference.knowbias.gates import gates
from agents.inference.mlx import loading
from agents.inference.mlx.admission import Admission, busy_slots
from agents.inference.mlx.batch import Batch
from agents.inference.mlx.prompt_cache import CacheCost, PrefixCache, cannot_be_cut, measure_cost
from agents.inference.mlx.work import Work, WorkUpdate
from agents.inference.settings import InferenceSettings
from bus.metrics import count_degraded
from bus.tenants.shares import find_most
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
        bundle = loading.load(settings)
        self.device, self.encoder, self.grammars = bundle.device, bundle.encoder, bundle.grammars
        self.parameters, self.weights, self._model_bytes = bundle.parameters, bundle.weights, bundle.model_bytes
        self.vocabulary = bundle.vocabulary
        row_cost, whole_only = _measure_row(bundle.model)
        self.plan = plan_memory(
            bundle.memory,
            bundle.device,
            weights=int(mx.get_active_memory()),
            adapters=settings.adapter_bytes if settings.adapters is not None else 0,
            prompts=settings.prefix_bytes,
            rows=settings.kv_bytes,
            least_rows=row_cost.of(self.encoder.context_tokens),
        )
        self.bank = AdapterBank(
            bundle.model, settings.adapters, budget=self.plan.adapters, seats=settings.max_mixed, is_judged=True
        )
        self.bank.registration.log_strangers()
        self.factor = _apply_enhancement(settings, bundle.model, self.bank)
        model = RoutedModel(bundle.model, self.bank.rows)
        self.admission = Admission(settings, self.bank, cost=row_cost, max_bytes=self.plan.rows)
        bits = choose_prefix_bits(bundle.device, settings.prefix_bits)
        self.batch = Batch(
            settings,
            bundle,
            model,
            generator=_make_generator(settings, bundle, model),
            prefixes=PrefixCache(max_bytes=self.plan.prompts, bits=bits),
            whole_only=whole_only,
        )

    @property
    def stream(self) -> Any:
        """The context in which steps run."""
        return mx.stream(self.batch.generator.stream)

    @property
    def busy(self) -> bool:
        """Whether any work waits or runs."""
        return bool(self.batch.active or len(self.admission.scheduler))

    @property
    def crowded(self) -> bool:
        """Whether more than one piece of work waits or runs."""
        return len(self.batch.active) + len(self.admission.scheduler) > 1

    def enqueue(self, work: Work) -> None:
        """Queue the work for the batch."""
        work.factor = self.factor if work.request.enhance else 1.0
        self.admission.enqueue(work)

    def step(self) -> None:
        """Bring every row one token further."""
        self._drop_unwanted()
        self._admit()
        self.batch.prefill()
        self.batch.decode()

    def prefetch(self, uses: tuple[AdapterUse, ...]) -> None:
        """Make registered adapters resident; a failure is counted, and later requests with the adapter report it."""
        self.bank.note_busy(self.busy_slots)
        for use in uses:
            if self.bank.registration.is_served(use.name):
                try:
                    self.bank.prefetch(use.name)
                except KikiError as error:
                    count_degraded("adapter.prefetch", error.message)

    def load_adapters(self, uses: Sequence[AdapterUse]) -> None:
        """Read and verify adapters that were never proven; they are kept if there is room.

        Raises:
            StageFailed: code ``adapter_failed``.
        """
        self.bank.note_busy(self.busy_slots)
        self.bank.require(uses)

    def forget(self) -> None:
        """Drop the prompts that were kept for later ones."""
        self.batch.forget()

    def administer(self, verb: str, name: str, sha256: str) -> AdapterInfo:
        """Carry out an administrator's verb; adapters of running rows are left alone.

        Raises:
            StageFailed: code ``adapter_failed``.
        """
        return administration.perform(self.bank, verb, name, busy_slots=busy_slots(self.batch.active), sha256=sha256)

    @property
    def busy_slots(self) -> set[int]:
        """Slots of the seats that running rows use."""
        return busy_slots(self.batch.active)

    def is_using(self, name: str) -> bool:
        """Whether running rows use an adapter."""
        return any(use.name == name for work in self.batch.active for use in work.adapters)

    def send_to_all(self, update: WorkUpdate) -> None:
        """Send ``update`` to all work that waits or runs."""
        for work in [*self.batch.active, *self.admission.scheduler.items()]:
            work.send(update)

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
            "context_tokens": float(self.encoder.context_tokens),
            "parameters": float(self.parameters),
            "adapter_resident_bytes": float(bank.counted_bytes),
            "adapter_bytes_limit": float(bank.budget),
            "prefix_bytes_limit": float(self.plan.prompts),
            "adapters_registered": float(len(bank.registered_names)),
            "adapters_resident": float(len(bank.resident)),
            "model_bytes": float(self._model_bytes),
        }

    def _admit(self) -> None:
        if not (newcomers := self.admission.admit(self.batch.active)):
            return
        self.batch.active += newcomers
        self.admission.mount(self.batch.active)
        for work in newcomers:
            self.batch.begin(work)

    def _drop_unwanted(self) -> None:
        now, scheduler = time.time(), self.admission.scheduler
        for work in [*self.batch.active, *scheduler.items()]:
            if not work.unwanted and work.request.deadline <= now:
                with work.lock:
                    work.unwanted = True
                work.send(DeadlineExceeded("the deadline passed while the model was working on the request."))
        scheduler.discard(work for work in scheduler.items() if work.unwanted)
        for work in [work for work in self.batch.active if work.unwanted]:
            self.batch.leave(work)


def _apply_enhancement(settings: InferenceSettings, model: Any, bank: AdapterBank) -> float:
    """Wrap the gates of the configured neurons; without any the model is left as it is.

    Returns:
        The factor for rows whose request has ``enhance``; 1.0 without neurons.

    Raises:
        SetupError: the file cannot be read, or its neurons are another model's.
    """
    if settings.knowbias is None:
        return 1.0
    bias_neurons = neurons.check_fit(
        neurons.read_neurons(settings.knowbias), gates(model), model_digest=settings.model_digest
    )
    enhance(bank.places, bias_neurons, bank.rows)
    return settings.knowbias_factor


def _measure_row(base: Any) -> tuple[CacheCost, bool]:
    """Bytes of cache that a row costs, and whether the caches cannot be cut to a shorter prompt."""
    model = RoutedModel(base, Rows())
    cache = model.make_cache()
    whole_only = cannot_be_cut(cache)
    mx.eval(model(mx.array([[1]]), cache=cache))
    return measure_cost(cache[:-1]), whole_only


def _make_generator(settings: InferenceSettings, bundle: loading.ModelBundle, model: RoutedModel) -> BatchGenerator:
    """mlx-lm's continuous batching, after one token was decoded with it."""
    generator = BatchGenerator(
        model,
        stop_tokens=[[token] for token in sorted(bundle.tokenizer.eos_token_ids)],
        completion_batch_size=find_most(settings.max_batch),
        prefill_batch_size=min(PREFILL_ROWS, settings.max_batch),
        prefill_step_size=settings.prefill_step,
    )
    generator.insert([list(bundle.encoder.encode_plain("Hello."))], max_tokens=[1])
    while not generator.next()[1]:
        pass
    return generator
