"""Minimising a convex loss by L-BFGS: no random numbers, so the same result each time."""

from collections.abc import Callable, Sequence

import torch


def minimise(parameters: Sequence[torch.Tensor], loss: Callable[[], torch.Tensor]) -> None:
    """Change the parameters in place, from their present values to those at which ``loss``, a scalar, is least."""
    optimiser = torch.optim.LBFGS(parameters, max_iter=100, line_search_fn="strong_wolfe")

    def step() -> torch.Tensor:
        optimiser.zero_grad()
        value = loss()
        value.backward()
        return value

    optimiser.step(step)
