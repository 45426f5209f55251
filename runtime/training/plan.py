"""What is settled before the first step: recipe, base, data and place of the result, each with its digest."""

import difflib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.shared.adapters.folders import find_weights, read_config, survey_adapters
from agents.shared.domains import load_taxonomy
from runtime.fleet import plan_device
from runtime.models import CATALOG, find_ready, hub, plan_downloads, prepare
from runtime.models import digest as digest_of_model
from runtime.models.progress import ProgressReport, report_nothing
from runtime.settings import Settings
from runtime.training.data import DataSet, read_data_set
from runtime.training.recipes import Recipe, find_recipe, read_recipe
from schemas.errors import SetupError

ADAPTERS = "adapters"
"""Folder of the data directory that results go to where the setting ``adapters`` names none."""


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """What a person asked for; None is the recipe's or the settings' own."""

    data: Path | None = None
    model: str | None = None
    recipe: Path | None = None
    output: Path | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """A training that may begin: ``base`` is the base's name, ``model`` its folder, ``output`` the adapters folder."""

    domain: str
    recipe: Recipe
    base: str
    model: Path
    base_sha256: str
    data: DataSet
    output: Path

    @property
    def provenance(self) -> dict[str, Any]:
        """What the result was made from; two trainings with equal values teach the same."""
        return {
            "domain": self.domain,
            "base_model": self.base,
            "base_sha256": self.base_sha256,
            "data_sha256": self.data.sha256,
            "recipe_sha256": self.recipe.sha256,
        }

    @property
    def place(self) -> Path:
        """Where the finished adapter goes."""
        return self.output / self.domain


def output_folder(options: TrainingOptions, settings: Settings) -> Path:
    """The adapters folder that results go to."""
    return options.output or settings.adapters or settings.data_dir / ADAPTERS


def read_options(domain: str, options: TrainingOptions) -> tuple[Recipe, Path]:
    """The recipe and the data folder of a domain.

    Raises:
        SetupError: there is no such domain, or the recipe is wrong.
    """
    check_domain(domain)
    recipe = read_recipe(options.recipe or find_recipe(domain, model=options.model))
    return recipe, options.data or Path(recipe.data)


def check_domain(domain: str) -> None:
    """Raise SetupError unless it is one of the 35."""
    domains = load_taxonomy().domains
    if domain not in domains:
        close = difflib.get_close_matches(domain, domains, n=1)
        hint = f"did you mean '{close[0]}'?" if close else "configs/domains.yaml lists the 35."
        raise SetupError(f"there is no domain '{domain}': {hint}", param="domain")


def make_plan(
    domain: str,
    options: TrainingOptions,
    settings: Settings,
    *,
    say: Callable[[str], None] = lambda _: None,
    progress: ProgressReport = report_nothing,
) -> TrainingPlan:
    """Settle everything; a base that is not here yet is fetched last, when all else is right.

    ``say`` gets a line for what is fetched.

    Raises:
        SetupError: something is missing or wrong; the message names it.
    """
    recipe, folder = read_options(domain, options)
    base = options.model or recipe.model
    _refuse_gguf(base)
    data = read_data_set(folder, batch_size=recipe.batch_size)
    ready = find_ready(base)
    if ready is not None:
        _refuse_quantized(base, ready)  # before minutes of reading for the digest
    else:
        _refuse_too_large(base, settings)  # before it is fetched
        for line in plan_downloads([base]):
            say(line)
    model = ready or prepare(base, progress=progress)
    _refuse_quantized(base, model)
    plan = TrainingPlan(
        domain=domain,
        recipe=recipe,
        base=base,
        model=model,
        base_sha256=digest_of_model(model),
        data=data,
        output=output_folder(options, settings),
    )
    _refuse_mixed_bases(plan)
    return plan


def is_finished(plan: TrainingPlan) -> bool:
    """Whether the result that lies in its place was made from the same base, data and recipe."""
    try:
        config = json.loads((plan.place / "adapter_config.json").read_bytes())
    except (OSError, ValueError):
        return False
    is_same = isinstance(config, dict) and all(config.get(key) == value for key, value in plan.provenance.items())
    return is_same and find_weights(plan.place) is not None


def _refuse_too_large(base: str, settings: Settings) -> None:
    """A base of the hub whose weights alone are more than the device may hold; the trainer estimates the rest."""
    repository = None if base in CATALOG else hub.parse(base)
    if repository is None:
        return
    files = hub.list_files(repository).files
    weights = sum(file.size or 0 for file in files if file.name.endswith(".safetensors"))
    device, plan = plan_device(settings.agents.get("inference", {}), ())
    if weights > plan.usable:
        raise SetupError(
            f"{base} has {weights / 1e9:.2f} GB of weights, and {device} may hold {plan.usable / 1e9:.2f} GB here: "
            "give a smaller base with --model, or train on a larger machine. Nothing was fetched.",
            param="model",
        )


def _refuse_mixed_bases(plan: TrainingPlan) -> None:
    """The gate compares with all others of the folder, which it cannot when they are of another base."""
    if not plan.output.is_dir():
        return
    for name, path in survey_adapters(plan.output).paths.items():
        base = read_config(path).get("base_sha256")
        if name != plan.domain and base is not None and base != plan.base_sha256:
            raise SetupError(
                f"{plan.output} holds '{name}', an adapter of another base ({read_config(path).get('base_model')}); "
                f"one of {plan.base} cannot be compared with it: give another folder with --output.",
                param="output",
            )


def _refuse_gguf(base: str) -> None:
    if base.lower().endswith(".gguf"):
        raise SetupError(
            f"the base '{base}' is a GGUF file, which is quantised: training needs the float weights; give their "
            "directory or hub id with --model.",
            param="model",
        )


def _refuse_quantized(base: str, model: Path) -> None:
    try:
        config = json.loads((model / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise SetupError(f"{model}/config.json cannot be read: {error}.", param="model") from error
    for holder in (config, config.get("text_config") or {}):
        scheme = holder.get("quantization") or holder.get("quantization_config")
        if scheme:
            bits = f" to {scheme['bits']} bits" if isinstance(scheme, dict) and "bits" in scheme else ""
            raise SetupError(
                f"the base '{base}' is quantised{bits} ({model}/config.json): training on it would corrupt the expert "
                "layers; give the float weights (bfloat16) with --model.",
                param="model",
            )
