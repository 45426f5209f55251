"""The change that LoRA makes to one module."""

from dataclasses import dataclass

import mlx.core as mx


@dataclass(frozen=True, kw_only=True)
class LowRankPair:
    """The change of one module; the shapes are described in :mod:`agents.inference.adapters.files`.

    ``stacked``: both are parts of a stack (:mod:`agents.inference.adapters.stacks`) and take no memory of their own.
    """

    a: mx.array
    b: mx.array
    stacked: bool = False

    @property
    def rank(self) -> int:
        """Columns of ``a``, or its rows for each expert."""
        return int(self.a.shape[1])

    @property
    def nbytes(self) -> int:
        """Bytes of both tensors."""
        return int(self.a.nbytes + self.b.nbytes)

    @property
    def square(self) -> mx.array:
        """Square of the change's Frobenius norm, computed from (rank, rank) matrices: |AB|^2 = <A'A, BB'>."""
        a, b = self.a.astype(mx.float32), self.b.astype(mx.float32)
        if a.ndim == 3:
            return mx.sum((a @ a.swapaxes(1, 2)) * (b.swapaxes(1, 2) @ b))
        return mx.sum((a.T @ a) * (b @ b.T))
