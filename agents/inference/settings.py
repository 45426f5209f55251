"""Settings of the inference worker, and of the upstream server that may decode in its place."""

from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from msgspec import Meta, Struct

from schemas.chat import MAX_CANDIDATES

Seconds = Annotated[float, Meta(ge=0.0)]


class UpstreamAdapter(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A registered adapter as the upstream knows it.

    Attributes:
        model: the model name that answers with it; the adapter's own name when empty.
        path: where the upstream finds its files, for ``lora`` "dynamic" and "field"; never from a request.
        sha256: digest of its weights as the operator knows it, reported in results; the upstream reports none.
    """

    model: str = ""
    path: str = ""
    sha256: str = ""


class UpstreamSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which server, and how it is used.

    Attributes:
        base_url: the server's URL, including ``/v1``.
        model: the base model's name there.
        api_key: sent as a bearer key; best given as ``KIKI_AGENTS__INFERENCE__UPSTREAM__API_KEY``.
        adapters: registered adapters by name.
        lora: how a call names an adapter: "listed" (vLLM's ``--lora-modules``: a model name that is there), "dynamic"
            (vLLM's ``/v1/load_lora_adapter`` before the first use), "field" (``mlx_lm.server``: a path in the body; it
            then needs ``model`` to be the model's path, because with "default_model" it ignores adapters).
        thinking: the chat template opens the reasoning, and the server leaves it in the content.
        max_concurrent: calls in flight at most; further ones wait, ordered by lane.
        connect_timeout: seconds that connecting may take.
        read_timeout: seconds without a byte after which the upstream counts as hung.
        probe_seconds: seconds between two checks whether the server answers.
    """

    base_url: str
    model: str
    api_key: str = ""
    adapters: dict[str, UpstreamAdapter] = {}
    lora: Literal["listed", "dynamic", "field"] = "listed"
    thinking: bool = False
    max_concurrent: int = 16
    connect_timeout: float = 5.0
    read_timeout: float = 120.0
    probe_seconds: float = 5.0

    def __post_init__(self) -> None:
        if not self.base_url.startswith(("http://", "https://")):
            raise ValueError(f"upstream.base_url is '{self.base_url}'; it begins with http:// or https://.")
        if self.max_concurrent < 1:
            raise ValueError(f"upstream.max_concurrent is {self.max_concurrent}; at least 1.")
        if self.lora == "field" and self.model == "default_model":
            raise ValueError(
                "upstream.model is 'default_model', with which mlx_lm.server ignores adapters: give its path."
            )
        pathless = sorted(name for name, adapter in self.adapters.items() if self.lora != "listed" and not adapter.path)
        if pathless:
            raise ValueError(f"upstream.adapters.{pathless[0]} has no path, which lora = '{self.lora}' needs.")


class InferenceSettings(Struct, frozen=True, kw_only=True):
    """Which model, which adapters, and how much at once.

    "Chosen" marks a number that this project set by judgement; no paper or measurement gives it.

    Attributes:
        engine: "mlx" decodes in this process; "openai" asks ``upstream``, and then only ``model_name``,
            ``candidate_temperature``, ``patience`` and the two concurrencies are used beside it.
        upstream: the server that "openai" asks.
        model: directory with config.json, safetensors and tokenizer.
        model_name: what results call the model.
        model_digest: digest of the model's files, recorded in results and episodes.
        adapters: folder whose subfolders are adapters in mlx-lm's or PEFT's layout, named ``<domain>`` or
            ``stack-NN-<domain>``, or by a key ``domain`` of their configuration; None: no adapters.
        adapter_bytes: bytes for adapters in memory; those that were not used for longest are dropped first. None takes
            5/8 of the device's memory that the model's weights leave (:mod:`agents.inference.device_memory`).
        prefix_bytes: bytes for processed prompts that are cached for later turns; 0 caches none. None takes 1/8 of what
            the weights leave, on a CPU 512 MiB at most.
        prefix_bits: 8 stores their keys and values quantised, at half or a quarter of the bytes; 0 keeps them as they
            are. None is 8 on Metal and CUDA, 0 on a CPU.
        max_mixed: sets of adapters, besides the base, that decode in one batch if they fit in ``adapter_bytes``
            together; with 0 a set waits until the rows of the one before it have left.
        max_batch: rows that one tenant may have decoded together, at least the candidates of one turn; with the rows of
            others a third more (:mod:`bus.tenants.shares`).
        prefill_step: prompt tokens in one forward pass, between two decode steps, at most.
        prefill_seconds: seconds that such a pass may take beside other work, by the rate that is measured, if it has 32
            tokens at least; twice as long while there is none. Chosen.
        kv_bytes: bytes of keys, values and states that all rows together may need; work that does not fit waits for
            rows to leave. None takes the memory that weights, adapters and cached prompts leave.
        cpu_weights: how a CPU holds the weights: "int8" takes a quarter of the memory and is several times faster where
            torch has a kernel for the processor, "float32" is exact; "auto" measures both at the first start and keeps
            the reading. Metal and CUDA take the weights as stored.
        int8_folder: where rounded weights and the reading are kept; None makes both again at every start.
        memory_limit: bytes that MLX may allocate; None takes 460/512 of a GPU's memory, and MLX's own limit on a CPU.
        cache_limit: bytes of freed buffers that MLX keeps; None takes 1/16 of a GPU's memory, 32 GB of 512 GB.
        context_tokens: tokens of prompt and answer together; None takes the model's own.
        candidate_temperature: temperature of all candidates but the first when the request asks for 0, which would
            make all candidates equal; chosen.
        patience: seconds that work of each lane (interactive, auxiliary, background) waits behind work for the
            loaded adapters before the batch is drained for it; chosen.
        finish_seconds: seconds before a turn's deadline at which its decoding ends, for the stages behind, by level
            (raw, fast, full); at most a fifth of the time that the worker has for the turn.
        stall_seconds: seconds without a step while work is queued after which the worker counts as hung and ends.
        journal: file that names the running requests, so that one that kills the worker is found; each worker needs its
            own.
        train_tokens: tokens of one training example at most; other requests wait for the step on it.
        zone: zone of the dates of recalled episodes, such as "Europe/Paris"; None is the machine's own.
        knowbias: file of bias-knowledge neurons, written by ``kiki knowbias probe``; None leaves the model as it is.
        knowbias_factor: multiplies those neurons in candidates of turns whose plan checks for bias, and in revisions.
        max_concurrent: turns handled at once.
        job_concurrency: jobs of one lane handled at once.
    """

    engine: Literal["mlx", "openai"] = "mlx"
    upstream: UpstreamSettings | None = None
    model: Path | None = None
    model_name: str
    model_digest: str = ""
    adapters: Path | None = None
    adapter_bytes: int | None = None
    prefix_bytes: int | None = None
    prefix_bits: Literal[0, 8] | None = None
    max_mixed: int = 8
    max_batch: int = 32
    prefill_step: int = 512
    prefill_seconds: Annotated[float, Meta(gt=0.0)] = 0.1
    kv_bytes: int | None = None
    cpu_weights: Literal["auto", "int8", "float32"] = "auto"
    int8_folder: Path | None = None
    memory_limit: int | None = None
    cache_limit: int | None = None
    context_tokens: int | None = None
    candidate_temperature: float = 0.8
    patience: tuple[float, float, float] = (0.5, 1.0, 5.0)
    finish_seconds: tuple[Seconds, Seconds, Seconds] = (1.0, 1.0, 4.0)
    stall_seconds: float = 120.0
    journal: Path | None = None
    train_tokens: int = 512
    zone: str | None = None
    knowbias: Path | None = None
    knowbias_factor: float = 2.0
    max_concurrent: int = 64
    job_concurrency: int = 8

    def __post_init__(self) -> None:
        if self.max_batch < MAX_CANDIDATES:
            raise ValueError(f"max_batch is {self.max_batch}; one turn may have {MAX_CANDIDATES} candidates.")
        if self.zone is not None:
            try:
                ZoneInfo(self.zone)
            except (KeyError, ValueError, OSError) as error:
                raise ValueError(f"zone is '{self.zone}'; expected a time zone such as Europe/Paris.") from error
