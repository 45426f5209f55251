"""Puts a finished adapter together beside its place, and then there in one step."""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from agents.shared.adapters.folders import CONFIG, MLX_WEIGHTS
from agents.shared.disk import sync, sync_tree
from runtime.training.curve import write_curve
from runtime.training.plan import TrainingPlan
from runtime.training.workspace import Workspace


def assemble(plan: TrainingPlan, workspace: Workspace, weights: Path, losses: Sequence[Mapping[str, Any]]) -> str:
    """Put the adapter's files into the workspace's staging folder, synced to disk.

    ``adapter_config.json`` has what mlx-lm writes, which is the recipe, and what it was made from.

    Returns:
        Why there is no picture of the losses; empty when there is one.

    Raises:
        OSError: the disk takes them not.
    """
    staging = workspace.staging
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    config = msgspec.to_builtins(plan.recipe) | {"model": plan.base} | plan.provenance
    (staging / CONFIG).write_bytes(msgspec.json.format(msgspec.json.encode(config, order="sorted"), indent=4) + b"\n")
    lack = write_curve(staging, plan.domain, losses)
    os.link(weights, staging / MLX_WEIGHTS)
    sync_tree(staging)
    return lack


def put_in_place(plan: TrainingPlan, workspace: Workspace) -> Path:
    """Move the staged adapter to its place; one that lies there already goes. Returns the place.

    Whoever looks sees the old adapter or the new one, and between two renames none; a kill there is mended by the next
    training of the domain.

    Raises:
        OSError: the disk refuses.
    """
    if plan.place.exists():
        plan.place.rename(workspace.replaced)
    workspace.staging.rename(plan.place)
    sync(plan.output)
    shutil.rmtree(workspace.replaced, ignore_errors=True)
    workspace.remove()
    return plan.place
