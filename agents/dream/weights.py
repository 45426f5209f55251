"""Fetches adapters and protected directions from the worker, through the object store."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from safetensors.numpy import load as parse

from agents.dream.projection import ProtectedDirections
from agents.shared.adapters import low_rank
from agents.shared.adapters.low_rank import Factors
from bus.connection import Bus
from bus.storage import objects
from schemas.calls import ADAPTERS_EXPORT, ADAPTERS_PROTECT
from schemas.consolidation import ExportRequest, ProtectRequest


@dataclass(frozen=True, kw_only=True)
class ExportedAdapter:
    """An adapter that the worker uses: its modules, its file's digest, and the scale in its configuration."""

    name: str
    sha256: str
    scale: float
    weights: dict[str, Factors]


async def export_adapter(bus: Bus, name: str, *, timeout: float) -> ExportedAdapter:
    """Fetch the adapter that is in use.

    Raises:
        KikiError: it is not registered, or the worker is away.
    """
    reply = await bus.request(ADAPTERS_EXPORT, ExportRequest(name=name), timeout=timeout)
    data = await objects.get(bus, reply.weights)
    return ExportedAdapter(
        name=name, sha256=reply.sha256, scale=reply.scale, weights=low_rank.load(name, data, scale=reply.scale)
    )


async def fetch_directions(bus: Bus, name: str, k: int, *, timeout: float) -> dict[str, ProtectedDirections]:
    """Fetch the ``k`` leading directions of the frozen weights under an adapter, by module.

    Raises:
        KikiError: it is not registered, or the worker is away.
    """
    reply = await bus.request(ADAPTERS_PROTECT, ProtectRequest(name=name, k=k), timeout=timeout)
    tensors: Mapping[str, low_rank.Array] = parse(await objects.get(bus, reply.directions))
    paths = {key.rpartition(".")[0] for key in tensors}
    return {
        path: ProtectedDirections(
            tensors[f"{path}.left"].astype(np.float64), tensors[f"{path}.right"].astype(np.float64)
        )
        for path in paths
    }
