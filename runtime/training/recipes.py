"""Recipes: how an adapter is trained, in the form that ``python -m mlx_lm lora --config FILE`` takes.

A field that a recipe leaves out has mlx-lm's own default. Unlike mlx-lm, an unknown field is an error.
"""

import hashlib
import re
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import yaml
from msgspec import Meta

from schemas.errors import SetupError

BASE = "Qwen/Qwen3.6-35B-A3B"
"""The base of the 35 experts."""

SMALL_BASE = "qwen2.5-coder-0.5b-instruct"
"""The base of the small fleet: the default model."""

RANK, SCALE, LAYERS, LEARNING_RATE = 16, 1.0, 32, 1e-5
"""What the recipes of the 35 experts have in common. alpha 16 is the scale 1.0: alpha / rank."""

KEYS = (
    *(f"linear_attn.{leaf}" for leaf in ("in_proj_a", "in_proj_b", "in_proj_qkv", "in_proj_z", "out_proj")),
    *(f"self_attn.{leaf}_proj" for leaf in "qkvo"),
    "mlp.gate",
    "mlp.shared_expert_gate",
    *(f"mlp.shared_expert.{leaf}_proj" for leaf in ("down", "gate", "up")),
    *(f"mlp.switch_mlp.{leaf}_proj" for leaf in ("down", "gate", "up")),
)
"""The 17 kinds of modules that an adapter of Qwen3.6 changes in a layer."""

SMALL_KEYS = (
    *(f"self_attn.{leaf}_proj" for leaf in "qkvo"),
    *(f"mlp.{leaf}_proj" for leaf in ("gate", "up", "down")),
)
"""All linear modules in a layer of a dense model such as Qwen2.5."""

Count = Annotated[int, Meta(ge=1)]
Positive = Annotated[float, Meta(gt=0.0)]


class LoraParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Rank and scale of the change; ``keys``: which modules of a layer it changes, None for all linear ones."""

    rank: Count = 8
    scale: Positive = 20.0
    dropout: Annotated[float, Meta(ge=0.0, lt=1.0)] = 0.0
    keys: tuple[str, ...] | None = None


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One recipe; the fields are those of mlx-lm. ``data`` is relative to the working directory, as mlx-lm reads it.

    ``num_layers``: the last so many layers are changed; -1 for all.
    """

    model: str
    data: str
    train: Literal[True] = True
    fine_tune_type: str = "lora"
    adapter_path: str = "adapters"
    num_layers: Annotated[int, Meta(ge=-1)] = 16
    lora_parameters: LoraParameters = LoraParameters()
    optimizer: Literal["adam", "adamw", "muon", "sgd", "adafactor"] = "adam"
    optimizer_config: dict[str, dict[str, Any]] = {}
    learning_rate: Positive = 1e-5
    lr_schedule: dict[str, Any] | None = None
    iters: Count = 1000
    batch_size: Count = 4
    grad_accumulation_steps: Count = 1
    grad_checkpoint: bool = False
    clear_cache_threshold: Annotated[int, Meta(ge=0)] = 0
    max_seq_length: Annotated[int, Meta(ge=8)] = 2048
    mask_prompt: bool = False
    val_batches: Annotated[int, Meta(ge=-1)] = 25
    steps_per_report: Count = 10
    steps_per_eval: Count = 200
    save_every: Count = 100
    seed: Annotated[int, Meta(ge=0, lt=2**32)] = 0
    test: bool = False
    test_batches: Annotated[int, Meta(ge=-1)] = 500

    @property
    def sha256(self) -> str:
        """Digest of everything that decides what is learnt; where data and result lie is left out."""
        content = msgspec.to_builtins(self)
        for place in ("data", "adapter_path", "train", "test", "test_batches", "clear_cache_threshold"):
            del content[place]
        return hashlib.sha256(msgspec.json.encode(content, order="sorted")).hexdigest()


class _RecipeLoader(yaml.SafeLoader):
    """YAML as mlx-lm reads it: ``1e-5`` is a number, though YAML 1.1 has it as text."""


_RecipeLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)[eE][-+]?[0-9]+$"), list("-+0123456789.")
)


def recipes_folder() -> Path:
    """``configs/lora``: a recipe for each domain, ``small/`` with those of the small fleet, and the curriculum."""
    return Path(str(files("configs"))) / "lora"


def find_recipe(domain: str, *, model: str | None = None) -> Path:
    """The shipped recipe of a domain; with ``model`` that of this base, where there are several.

    Raises:
        SetupError: there is none.
    """
    folder = recipes_folder()
    paths = [path for path in (folder / f"{domain}.yaml", folder / "small" / f"{domain}.yaml") if path.is_file()]
    if not paths:
        raise SetupError(f"no recipe for '{domain}' in {folder}: name one with --recipe FILE.", param="recipe")
    if model is None:
        return paths[0]
    bases = {read_recipe(path).model: path for path in paths}
    if model not in bases:
        raise SetupError(
            f"no shipped recipe of '{domain}' is for the base '{model}' (there are some for {', '.join(bases)}): "
            "name one with --recipe FILE.",
            param="recipe",
        )
    return bases[model]


def read_recipe(path: Path) -> Recipe:
    """Read a recipe.

    Raises:
        SetupError: it cannot be read, or a field is wrong; the message names file and field.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _RecipeLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SetupError(f"the recipe {path} cannot be read: {_one_line(error)}.", param="recipe") from error
    if isinstance(content, dict) and "alpha" in (content.get("lora_parameters") or {}):
        raise SetupError(
            f"the recipe {path}: lora_parameters.alpha is ignored by mlx-lm: write scale, which is alpha / rank.",
            param="recipe",
        )
    try:
        recipe = msgspec.convert(content, Recipe)
    except msgspec.ValidationError as error:
        raise SetupError(f"the recipe {path}: {error}.", param="recipe") from error
    if reason := _refusal(recipe):
        raise SetupError(f"the recipe {path}: {reason}.", param="recipe")
    return recipe


def _refusal(recipe: Recipe) -> str:
    """Why such a recipe is not trained; empty when it is."""
    if recipe.fine_tune_type == "dora":
        return (
            "fine_tune_type 'dora' is refused: the expert layers of a mixture (SwitchLinear) cannot be trained so, "
            "and the worker serves LoRA only; write 'lora'"
        )
    if recipe.fine_tune_type != "lora":
        return f"fine_tune_type is '{recipe.fine_tune_type}', and only 'lora' makes an adapter that the worker serves"
    if recipe.num_layers == 0:
        return "num_layers is 0, which changes nothing; -1 changes all layers"
    if recipe.save_every % recipe.steps_per_report:
        return (
            f"save_every {recipe.save_every} is no multiple of steps_per_report {recipe.steps_per_report}: the loss is "
            "looked at before each checkpoint"
        )
    return ""


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
