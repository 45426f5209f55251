"""Whole blocks of a model outside MLX.

The hidden state between two blocks is a NumPy array, and so is all between the attentions. Attention is MLX's, which
the block waits for, or for one token a row that of :mod:`agents.inference.int8.attention`. mlx-lm's own loop over the
blocks stays as it is.

In training mode, and where a module of it is wrapped by an adapter or a cover, a block is mlx-lm's own over layers that
compute one by one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm.models import llama, qwen2
from mlx_lm.models.base import scaled_dot_product_attention

from agents.inference.adapters.kv_cache import RoomyCache
from agents.inference.int8.attention import Rotary, attend
from agents.inference.int8.kernel import Floats
from agents.inference.int8.layers import Int8Linear, Product

FAMILIES = (llama.Model, qwen2.Model)
"""Models whose blocks are computed as wholes."""


@dataclass(frozen=True)
class Hidden:
    """The hidden state between two blocks: ``tokens`` (rows * length, width), for an array of ``shape``."""

    tokens: Floats
    shape: tuple[int, ...]

    @classmethod
    def of(cls, x: "mx.array | Hidden") -> "Hidden":
        """The state of an array (rows, length, width)."""
        return x if isinstance(x, Hidden) else cls(np.asarray(x).reshape(-1, x.shape[-1]), x.shape)

    @property
    def array(self) -> mx.array:
        """The state as an array of MLX."""
        return mx.array(self.tokens).reshape(self.shape)


class HiddenNorm(nn.RMSNorm):  # type: ignore[misc]
    """The norm behind the last block: makes an array of a hidden state."""

    def __init__(self, base: nn.RMSNorm) -> None:
        nn.Module.__init__(self)
        self.weight, self.eps = base.weight, base.eps

    def __call__(self, x: mx.array | Hidden) -> mx.array:
        """``x``: (rows, length, width)."""
        y: mx.array = super().__call__(x.array if isinstance(x, Hidden) else x)
        return y


class WholeBlock:
    """A block of one of the :data:`FAMILIES`; :func:`make_whole` mixes this into its class."""

    self_attn: Any
    mlp: Any
    training: bool
    _parts: "BlockParts"

    def __call__(self, x: mx.array | Hidden, mask: Any = None, cache: Any = None) -> Any:
        """``x``: (rows, length, width)."""
        if self.training or not self._is_plain:
            return super().__call__(x.array if isinstance(x, Hidden) else x, mask, cache)  # type: ignore[misc]
        hidden, parts = Hidden.of(x), self._parts
        projected = parts.project(hidden.tokens)
        if x.shape[1] == 1 and isinstance(cache, RoomyCache) and parts.rotary is not None:
            attended = parts.attend(projected, cache)
        else:
            attended = self._attend(projected, hidden.shape, mask, cache)
        return Hidden(parts.finish(hidden.tokens, attended), hidden.shape)

    def _attend(self, projected: Floats, shape: tuple[int, ...], mask: Any, cache: Any) -> Floats:
        """MLX's attention of queries, keys and values that lie side by side: (rows * length, heads * width)."""
        attention, (rows, length, _) = self.self_attn, shape
        queries_end = attention.n_heads
        keys_end = queries_end + attention.n_kv_heads
        heads = mx.array(projected).reshape(rows, length, keys_end + attention.n_kv_heads, -1).swapaxes(1, 2)
        queries, keys, values = heads[:, :queries_end], heads[:, queries_end:keys_end], heads[:, keys_end:]
        offset = cache.offset if cache is not None else 0
        queries, keys = attention.rope(queries, offset=offset), attention.rope(keys, offset=offset)
        if cache is not None:
            keys, values = cache.update_and_fetch(keys, values)
        output = scaled_dot_product_attention(queries, keys, values, cache=cache, scale=attention.scale, mask=mask)
        return np.asarray(output).swapaxes(1, 2).reshape(rows * length, -1)

    @property
    def _is_plain(self) -> bool:
        attention, mlp = self.self_attn, self.mlp
        layers = (attention.q_proj, attention.k_proj, attention.v_proj, attention.o_proj)
        return all(type(layer) is Int8Linear for layer in (*layers, mlp.gate_proj, mlp.up_proj, mlp.down_proj))


class BlockParts:
    """What a block computes, on arrays (tokens, width).

    ``queries_keys_values`` and ``gate_up`` are the products of the layers whose input is the same. ``rotary`` is shared
    by all blocks of a model; None leaves attention to MLX.
    """

    def __init__(self, block: Any, queries_keys_values: Product, gate_up: Product, rotary: Rotary | None) -> None:
        attention, mlp = block.self_attn, block.mlp
        self.rotary, self._scale = rotary, float(attention.scale)
        self._heads, self._pairs = int(attention.n_heads), int(attention.n_kv_heads)
        self._queries_keys_values = queries_keys_values
        self._output, self._gate_up, self._down = attention.o_proj, gate_up, mlp.down_proj
        self._biases = [
            _join_biases(layers)
            for layers in (
                (attention.q_proj, attention.k_proj, attention.v_proj),
                (attention.o_proj,),
                (mlp.gate_proj, mlp.up_proj),
                (mlp.down_proj,),
            )
        ]
        self._norms = [
            (np.asarray(norm.weight.astype(mx.float32)) * product.factors, float(norm.eps))
            for norm, product in (
                (block.input_layernorm, queries_keys_values),
                (block.post_attention_layernorm, gate_up),
            )
        ]

    def project(self, tokens: Floats) -> Floats:
        """Queries, keys and values of ``tokens``, side by side."""
        return _add(self._queries_keys_values.multiply_scaled(_normalise(tokens, *self._norms[0])), self._biases[0])

    def attend(self, projected: Floats, cache: RoomyCache) -> Floats:
        """Attention of one new token a row, which is appended to ``cache``: (rows, heads * width)."""
        assert self.rotary is not None
        heads = projected.reshape(len(projected), self._heads + 2 * self._pairs, -1)
        turned = self.rotary.rotate(heads[:, : -self._pairs], cache.lengths)
        keys, values = cache.append_one(turned[:, self._heads :], heads[:, -self._pairs :])
        return attend(turned[:, : self._heads], keys, values, cache.lengths, scale=self._scale)

    def finish(self, tokens: Floats, attended: Floats) -> Floats:
        """What the block makes of ``tokens`` and their attention."""
        tokens = tokens + _add(self._output.product.multiply(attended), self._biases[1])
        gate_up = _add(self._gate_up.multiply_scaled(_normalise(tokens, *self._norms[1])), self._biases[2])
        width = gate_up.shape[1] // 2
        gate, up = gate_up[:, :width], gate_up[:, width:]
        gated = gate * up
        gated /= 1.0 + np.exp(-gate)
        tokens += _add(self._down.product.multiply(gated), self._biases[3])
        return tokens


def make_whole(block: Any, queries_keys_values: Product, gate_up: Product, rotary: Rotary | None) -> None:
    """Compute ``block``, whose linear layers are int8, as a whole. Its modules and their paths stay."""
    block._parts = BlockParts(block, queries_keys_values, gate_up, rotary)
    block.__class__ = _mix_in(type(block))  # type: ignore[arg-type]


@cache
def _mix_in(kind: type) -> type:
    return type(f"Whole{kind.__name__}", (WholeBlock, kind), {})


def _normalise(tokens: Floats, weight: Floats, eps: float) -> Floats:
    squares = np.einsum("ij,ij->i", tokens, tokens)[:, None]
    scaled: Floats = tokens / np.sqrt(squares / tokens.shape[1] + np.float32(eps))
    scaled *= weight
    return scaled


def _join_biases(layers: Sequence[Int8Linear]) -> Floats | None:
    """The biases of layers side by side; None when none has one."""
    if not any("bias" in layer for layer in layers):
        return None
    return np.concatenate(
        [np.asarray(layer.bias if "bias" in layer else mx.zeros(layer.weight.shape[0])) for layer in layers]
    )


def _add(product: Floats, bias: Floats | None) -> Floats:
    if bias is not None:
        product += bias
    return product
