"""Compares an adapter of the folder with all others that are served: its health, and the angles between them.

The files are read with NumPy, one module at a time, on any thread: the model goes on decoding.
"""

from collections.abc import Mapping
from typing import Any

from agents.inference.adapters.files import measure_shape
from agents.inference.adapters.registration import RegisteredAdapters
from agents.shared.adapters.angles import compare_adapters
from agents.shared.adapters.files import AdapterFile, shorten_path
from agents.shared.adapters.folders import STAGED
from agents.shared.adapters.health import check_health
from agents.shared.adapters.rules import UnfitAdapter
from agents.shared.adapters.verdicts import VerdictFolder, read_digest
from bus.metrics import count_degraded
from schemas.adapters import AdapterAngle, AnglesReply, AnglesRequest
from schemas.errors import InvalidInput


def compare_with_served(
    registration: RegisteredAdapters, verdicts: VerdictFolder, modules: Mapping[str, Any], request: AnglesRequest
) -> AnglesReply:
    """The health of an adapter for a model with these ``modules`` by path, and its angles to those that are served.

    Raises:
        StageFailed: code ``adapter_not_found``.
    """
    folder = registration.find_folder(request.name)
    shapes = {shorten_path(path): shape for path, module in modules.items() if (shape := measure_shape(module))}
    health = check_health(folder, base=shapes)
    if not health.is_healthy:
        return AnglesReply(sha256=health.sha256, fault="; ".join(fault.message for fault in health.faults[:3]))
    file, others = AdapterFile(folder), []
    for name in registration.names:
        if name in (request.name, request.apart) or STAGED in name:
            continue
        other_folder, weights = registration.find_folder(name), registration.find_file(name)
        sha256 = read_digest(weights)
        if not verdicts.judge_known(name, other_folder, sha256).is_served:
            continue
        try:
            (comparison,) = compare_adapters([file, AdapterFile(other_folder)]).values()
        except (UnfitAdapter, InvalidInput) as error:  # it cannot be served, so nothing of it can be lost
            count_degraded("gates.skipped", f"'{name}' was not compared: {error.message}")
            continue
        angle, module = comparison.smallest
        others.append(AdapterAngle(name=name, sha256=sha256, angle=angle, module=module))
    return AnglesReply(sha256=health.sha256, others=tuple(others))
