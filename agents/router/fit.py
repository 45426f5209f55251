"""Fitting what is convex: L-BFGS from where the parameters are, nothing drawn, the same result each time."""

from collections.abc import Callable, Sequence

import torch


def minimise(parameters: Sequence[torch.Tensor], loss: Callable[[], torch.Tensor]) -> None:
    """Move the parameters to where ``loss``, a scalar, is least."""
    optimiser = torch.optim.LBFGS(parameters, max_iter=100, line_search_fn="strong_wolfe")

    def step() -> torch.Tensor:
        optimiser.zero_grad()
        value = loss()
        value.backward()
        return value

    optimiser.step(step)
