"""The change that LoRA makes to one module, and the error of an adapter that cannot be used."""

from dataclasses import dataclass

import mlx.core as mx

from schemas.errors import StageFailed


@dataclass(frozen=True, kw_only=True)
class Pair:
    """The change of one module; the shapes are told in :mod:`agents.inference.lowrank`."""

    a: mx.array
    b: mx.array

    @property
    def nbytes(self) -> int:
        """Bytes of both tensors."""
        return int(self.a.nbytes + self.b.nbytes)


def failed(name: str, why: str) -> StageFailed:
    """The error of an adapter that cannot be used."""
    return StageFailed(f"adapter '{name}' cannot be used: {why}.", code="adapter_failed", param="adapters")
