"""What a training process is asked to do (a file of JSON), and what it says meanwhile (a line of JSON for each)."""

from typing import Any

import msgspec


class TrainingJob(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Train an adapter of a model.

    Attributes:
        model, data, folder: directories of the base, of the examples, and for checkpoints and weights.
        recipe: the fields of an mlx-lm recipe (:class:`runtime.training.recipes.Recipe`).
        begins: iterations that are done already; ``checkpoint`` holds the weights then.
        checkpoint: a safetensors file of mlx-lm's layout; empty at the beginning.
        losses: the file to which each loss is appended, as a line of JSON; empty for none.
        memory_limit: bytes that MLX may allocate; None is what the device has.
        cache_limit: bytes of freed buffers that MLX keeps; None is a share of the device's memory.
    """

    model: str
    data: str
    folder: str
    recipe: dict[str, Any]
    begins: int = 0
    checkpoint: str = ""
    losses: str = ""
    memory_limit: int | None = None
    cache_limit: int | None = None


class MemoryNeed(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Bytes that training takes at its peak, by what takes them, and bytes that the machine has (``available``)."""

    weights: int
    adapter: int
    optimizer: int
    activations: int
    available: int

    @property
    def peak(self) -> int:
        """Bytes of all together."""
        return self.weights + self.adapter + self.optimizer + self.activations


class TrainingNote(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Something that a person should know; the training goes on."""

    text: str


class IterationBegan(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The iteration of this number, from 1, has begun."""

    iteration: int


class TrainLoss(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Mean loss, in nats a token, of the iterations since the last such message; memory in bytes."""

    iteration: int
    loss: float
    learning_rate: float
    tokens_per_second: float
    trained_tokens: int
    peak_memory: int


class ValidationLoss(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Loss of ``valid.jsonl``, in nats a token, before the next iteration; ``test`` marks that of ``test.jsonl``."""

    iteration: int
    loss: float
    test: bool = False


class TrainingDone(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The weights lie in ``file``; they are finite and every module's lora_b is set."""

    file: str
    seconds: float
    peak_memory: int
    modules: int
    parameters: int


class TrainingRefused(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The training ends without a result; ``resumable`` when a later call may go on from the last checkpoint.

    ``param`` names what is at fault: data, recipe, model, memory, disk or loss.
    """

    text: str
    param: str
    resumable: bool = False


TrainingMessage = (
    MemoryNeed | TrainingNote | IterationBegan | TrainLoss | ValidationLoss | TrainingDone | TrainingRefused
)
"""One line of a training process's standard output."""
