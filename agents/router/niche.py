"""Which of a merged output's niche domains a prompt means, so that the router can choose each of the 35 adapters."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import softmax

from agents.router.fit import minimise
from agents.shared.encoder import Floats


@dataclass(frozen=True)
class NicheHead:
    """Multinomial logistic regression over the niche domains of one merged output.

    ``weight`` is ``[niches, width]``, ``bias`` is ``[niches]``.
    """

    names: tuple[str, ...]
    weight: torch.Tensor
    bias: torch.Tensor

    def probabilities(self, embeddings: Floats) -> Floats:
        """``[n, width]`` to ``[n, niches]``; rows sum to 1."""
        rows: Floats = softmax(embeddings @ self.weight.numpy().T + self.bias.numpy(), axis=1)
        return rows


def shares(heads: Mapping[str, NicheHead], embedding: Floats) -> dict[str, dict[str, float]]:
    """For each merged output, the probability of each of its niche domains, given that the output is right."""
    row = np.ascontiguousarray(embedding, dtype=np.float32)[None, :]
    return {
        output: {name: float(share) for name, share in zip(head.names, head.probabilities(row)[0], strict=True)}
        for output, head in heads.items()
    }


def fit_head(names: tuple[str, ...], inputs: torch.Tensor, targets: torch.Tensor, *, ridge: float = 1e-3) -> NicheHead:
    """Fit a head by L-BFGS from zero, without random numbers, so that the result is the same each time.

    ``inputs`` is ``[n, width]``, ``targets`` ``[n, niches]`` with rows that sum to 1.
    """
    weight = torch.zeros(len(names), inputs.shape[1], requires_grad=True)
    bias = torch.zeros(len(names), requires_grad=True)

    def loss() -> torch.Tensor:
        logits = torch.nn.functional.linear(inputs, weight, bias)
        return -(targets * torch.log_softmax(logits, dim=1)).sum(1).mean() + ridge * weight.square().sum()

    minimise([weight, bias], loss)
    return NicheHead(names=names, weight=weight.detach(), bias=bias.detach())
