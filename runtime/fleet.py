"""How much of the fleet of adapters is there, and how much of it fits in the worker's memory at the same time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.inference.device_memory import MemoryPlan, count_fitting, limit_usable, plan_memory
from agents.shared.adapters.folders import Stranger, find_weights, survey_adapters
from agents.shared.domains import load_taxonomy


@dataclass(frozen=True, kw_only=True)
class FleetSurvey:
    """The adapters of a folder: ``sizes`` in bytes by the name that each is asked for by."""

    sizes: Mapping[str, int]
    strangers: tuple[Stranger, ...]

    @property
    def present(self) -> tuple[str, ...]:
        """Domains that have an adapter."""
        return tuple(domain for domain in load_taxonomy().niches if domain in self.sizes)

    @property
    def missing(self) -> tuple[str, ...]:
        """Domains that have none."""
        return tuple(domain for domain in load_taxonomy().niches if domain not in self.sizes)

    def describe(self) -> str:
        """How many of the domains are there, and which are missing."""
        total = len(self.present) + len(self.missing)
        words = f"{len(self.present)} of {total} domains"
        if others := len(self.sizes) - len(self.present):
            words += f" and {others} under other names"
        return f"{words}; missing: {', '.join(self.missing)}" if self.missing and self.present else words

    def describe_fit(self, budget: int) -> str:
        """How many fit in ``budget`` bytes at the same time, and which alone are larger."""
        fitting = count_fitting(budget, self.sizes.values())
        words = f"{budget / 1e9:.1f} GB: {fitting} of {len(self.sizes)} fit at the same time"
        large = [name for name, size in self.sizes.items() if size > budget]
        return f"{words}; too large: {', '.join(large)}" if large else words


def survey_fleet(folder: Path) -> FleetSurvey:
    """The adapters that lie in the folder.

    Raises:
        SetupError: the folder does not exist.
    """
    survey = survey_adapters(folder)
    files = {name: find_weights(path) for name, path in survey.paths.items()}
    sizes = {name: file.stat().st_size for name, file in files.items() if file is not None}
    return FleetSurvey(sizes=sizes, strangers=survey.strangers)


def plan_device(overrides: Mapping[str, Any], weight_files: Sequence[Path]) -> tuple[str, MemoryPlan]:
    """The device's name and its plan, as a worker here would make it, with the weights as they are stored.

    ``overrides`` are the worker's settings.
    """
    from agents.inference.mlx.device import read_device

    device = read_device()

    def read(name: str) -> int | None:
        return int(overrides[name]) if overrides.get(name) is not None else None

    usable = limit_usable(device.total, device.kind, recommended=device.recommended, limit=read("memory_limit"))
    plan = plan_memory(
        usable,
        device.kind,
        weights=sum(path.stat().st_size for path in weight_files),
        adapters=read("adapter_bytes"),
        prompts=read("prefix_bytes"),
        rows=read("kv_bytes"),
    )
    return device.kind, plan
