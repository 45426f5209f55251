"""The checks of ``kiki validate``: whether configs agree with each other, and adapters with the rules.

Each check returns its faults, a line for each that names the file; none means that all is well. They read the files of
a folder laid out as ``configs``, so that another tree can be checked.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from agents.shared.adapters.folders import read_config, survey_adapters
from agents.shared.adapters.health import check_health
from runtime.training.curriculum import KINDS, PHASES, Phase, load_curriculum, order_of
from runtime.training.recipes import (
    BASE,
    KEYS,
    LAYERS,
    LEARNING_RATE,
    RANK,
    SCALE,
    SMALL_BASE,
    SMALL_KEYS,
    Recipe,
    read_recipe,
)
from schemas.errors import KikiError

DOMAINS, OUTPUTS = 35, 31
"""How many niche domains there are, and how many outputs the router scores them under."""

ITERATIONS = {"foundations": (1000, 1000), "coding": (500, 500), "niches": (100, 200)}
"""Fewest and most iterations by kind of phase."""

OLD_BASE = re.compile(r"qwen[-_ ]?3[._]5", re.IGNORECASE)
"""The base before Qwen3.6, whose adapters do not fit."""

_CORPUS_OF_ALL = {"base", "multi"}
"""Corpus files that belong to no domain."""

_YAML_SUFFIXES = {".yaml", ".yml", ".json", ".toml"}


def check_domains(configs: Path) -> list[str]:
    """The same domains are in ``domains.yaml``, aliases, stacks, the router's weights and corpus, and the recipes."""
    faults: list[str] = []
    domains = _read_domains(configs, faults)
    if not domains:
        return faults
    file = configs / "domains.yaml"
    outputs = {entry.get("output") for entry in domains.values()}
    if len(domains) != DOMAINS:
        faults.append(f"{file}: {len(domains)} domains, expected {DOMAINS}")
    if len(outputs) != OUTPUTS:
        faults.append(f"{file}: {len(outputs)} outputs, expected {OUTPUTS}")
    orders = [entry.get("order") for entry in domains.values()]
    if sorted(map(str, orders)) != sorted(map(str, range(1, len(domains) + 1))):
        faults.append(f"{file}: order must have each of 1 to {len(domains)} once, it has {_describe_odd(orders)}")
    phases = {phase.name for phase in PHASES}
    faults += [
        f"{file}: {name}.phase is {entry.get('phase')!r}, expected one of {', '.join(sorted(phases))}"
        for name, entry in domains.items()
        if entry.get("phase") not in phases
    ]
    faults += _check_aliases(configs / "aliases.yaml", domains)
    faults += _check_stacks(configs / "stacks.yaml", domains)
    faults += _check_router(configs / "router" / "meta.json", domains)
    faults += _check_files(configs / "router" / "corpus", "jsonl", set(domains), ignored=_CORPUS_OF_ALL)
    faults += _check_files(configs / "lora", "yaml", set(domains), ignored={"curriculum"})
    return faults


def check_recipes(configs: Path) -> list[str]:
    """Every recipe has the numbers that the fleet has in common, and no file names the base of before."""
    faults: list[str] = []
    domains = _read_domains(configs, faults)
    iterations = {phase.name: phase.iterations for phase in PHASES}
    lora = configs / "lora"
    for path in sorted(lora.glob("*.yaml")):
        if path.name == "curriculum.yaml":
            continue
        expected = {
            "model": BASE,
            "num_layers": LAYERS,
            "learning_rate": LEARNING_RATE,
            "mask_prompt": True,
            "data": f"data/merged/{path.stem}",
            "adapter_path": f"adapters/{path.stem}",
        }
        if phase := domains.get(path.stem, {}).get("phase"):
            expected["iters"] = iterations.get(phase)
        faults += _check_recipe(path, expected, KEYS)
    for path in sorted((lora / "small").glob("*.yaml")):
        if domains and path.stem not in domains:
            faults.append(f"{path}: '{path.stem}' is no domain of domains.yaml")
        expected = {"model": SMALL_BASE, "data": f"configs/adapters/{path.stem}", "mask_prompt": True}
        faults += _check_recipe(path, expected, SMALL_KEYS)
    if not lora.is_dir():
        faults.append(f"{lora}: there are no recipes")
    return faults + check_bases(configs)


def check_bases(configs: Path) -> list[str]:
    """No configuration names the base before Qwen3.6."""
    faults = []
    for path in sorted(path for path in configs.rglob("*") if path.suffix in _YAML_SUFFIXES):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if match := OLD_BASE.search(line):
                faults.append(f"{path}:{number}: it names an older base ({match[0]}): expected {BASE}")
    return faults


def check_curriculum(configs: Path) -> list[str]:
    """Foundations come before coding, coding before niches, each with its iterations; every domain stands once."""
    file = configs / "lora" / "curriculum.yaml"
    faults: list[str] = []
    domains = _read_domains(configs, faults)
    try:
        phases = load_curriculum(file)
    except KikiError as error:
        return [*faults, error.message]
    faults += [
        f"{file}: {later.name} ({later.kind}) comes after {before.name} ({before.kind}): expected {', '.join(KINDS)}"
        for before, later in pairwise(phases)
        if KINDS.index(later.kind) < KINDS.index(before.kind)
    ]
    if phases and phases[0].kind != KINDS[0]:
        faults.append(f"{file}: it begins with {phases[0].kind}, expected {KINDS[0]}")
    faults += [fault for phase in phases if (fault := _find_iterations_fault(file, phase))]
    faults += _check_names(f"{file}", order_of(phases), set(domains))
    if domains and not faults:
        faults += _check_order(file, phases, domains)
    return faults


def check_adapters(folder: Path) -> list[str]:
    """Every folder is an adapter of a domain, healthy, and of the base that its configuration should name.

    Raises:
        SetupError: there is no such folder.
    """
    survey = survey_adapters(folder)
    faults = [f"{stranger.path}: {stranger.reason}" for stranger in survey.strangers]
    for path in survey.paths.values():
        faults += [f"{path}: {fault.message}" for fault in check_health(path).faults]
        config = read_config(path)
        for key in ("base_model", "base_model_name_or_path", "model"):
            if isinstance(name := config.get(key), str) and OLD_BASE.search(name):
                faults.append(f"{path}: {key} is {name}: trained on an older base, it does not fit {BASE}")
    return faults


CHECKS: Mapping[str, Callable[[Path], list[str]]] = {
    "domains": check_domains,
    "recipes": check_recipes,
    "curriculum": check_curriculum,
}
"""The checks of a ``configs`` folder by name."""


def _read_domains(configs: Path, faults: list[str]) -> dict[str, dict[str, Any]]:
    content = _read_yaml(configs / "domains.yaml", faults)
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(entry, dict) for entry in content.values()):
        faults.append(f"{configs / 'domains.yaml'}: expected an entry with fields for each domain")
        return {}
    return content


def _read_yaml(path: Path, faults: list[str]) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        faults.append(f"{path}: it cannot be read ({' '.join(str(error).split())})")
        return None


def _check_aliases(path: Path, domains: Mapping[str, Any]) -> list[str]:
    faults: list[str] = []
    content = _read_yaml(path, faults) or {}
    places = {key: content.get(key) or () for key in ("cognition_domains", "base_domains")}
    places |= {
        f"models.{name}.domains": model.get("domains") or () for name, model in (content.get("models") or {}).items()
    }
    return faults + [
        f"{path}: {place} names '{name}', which is no domain"
        for place, names in places.items()
        for name in names
        if name not in domains
    ]


def _check_stacks(path: Path, domains: Mapping[str, Any]) -> list[str]:
    faults: list[str] = []
    content = _read_yaml(path, faults)
    return faults + _check_names(str(path), [name for stack in content or () for name in stack], set(domains))


def _check_router(path: Path, domains: Mapping[str, Any]) -> list[str]:
    try:
        meta = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        return [f"{path}: it cannot be read ({error})"]
    members: dict[str, list[str]] = {}
    for name, entry in domains.items():
        members.setdefault(str(entry.get("output")), []).append(name)
    faults = _check_names(f"{path}: labels", meta.get("labels") or (), set(members))
    merged = {output: sorted(names) for output, names in members.items() if len(names) > 1}
    niches = {output: sorted(names) for output, names in (meta.get("niches") or {}).items()}
    if niches != merged:
        faults.append(f"{path}: niches are {niches}, but domains.yaml merges {merged}")
    return faults


def _check_files(folder: Path, suffix: str, domains: set[str], *, ignored: set[str]) -> list[str]:
    names = {path.stem for path in folder.glob(f"*.{suffix}")} - ignored
    return [
        *(f"{folder / name}.{suffix} is missing" for name in sorted(domains - names)),
        *(f"{folder / name}.{suffix}: '{name}' is no domain of domains.yaml" for name in sorted(names - domains)),
    ]


def _check_names(place: str, names: Iterable[str], domains: set[str]) -> list[str]:
    """That every domain stands once, and nothing else does."""
    counts = Counter(names)
    return [
        *(f"{place}: '{name}' stands {count} times" for name, count in counts.items() if count > 1),
        *(f"{place}: '{name}' is missing" for name in sorted(domains - set(counts))),
        *(f"{place}: '{name}' is not in domains.yaml" for name in sorted(set(counts) - domains)),
    ]


def _check_recipe(path: Path, expected: Mapping[str, Any], keys: tuple[str, ...]) -> list[str]:
    try:
        recipe = read_recipe(path)
    except KikiError as error:
        return [error.message]
    lora = recipe.lora_parameters
    faults = [
        f"{path}: {field} is {_show(value)}, expected {_show(right)}"
        for field, value, right in (
            *((field, getattr(recipe, field), right) for field, right in expected.items()),
            ("lora_parameters.rank", lora.rank, RANK),
            ("lora_parameters.scale", lora.scale, SCALE),
        )
        if value != right
    ]
    return faults + _check_keys(path, recipe, keys)


def _check_keys(path: Path, recipe: Recipe, keys: tuple[str, ...]) -> list[str]:
    names = recipe.lora_parameters.keys or ()
    missing, odd = sorted(set(keys) - set(names)), sorted(set(names) - set(keys))
    faults = []
    if missing:
        faults.append(f"{path}: lora_parameters.keys lacks {', '.join(missing)}")
    if odd:
        faults.append(f"{path}: lora_parameters.keys has {', '.join(odd)}, which is none of the {len(keys)} kinds")
    return faults


def _find_iterations_fault(file: Path, phase: Phase) -> str:
    least, most = ITERATIONS[phase.kind]
    if least <= phase.iterations <= most:
        return ""
    return f"{file}: {phase.name} has {phase.iterations} iterations, expected {least} to {most} for {phase.kind}"


def _check_order(file: Path, phases: tuple[Phase, ...], domains: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """That phases and order are those of ``domains.yaml``."""
    faults = [
        f"{file}: '{name}' is in {phase.name}, but domains.yaml has it in {domains[name].get('phase')}"
        for phase in phases
        for name in phase.domains
        if domains[name].get("phase") != phase.name
    ]
    order = sorted(domains, key=lambda name: int(domains[name].get("order") or 0))
    for place, (name, expected) in enumerate(zip(order_of(phases), order, strict=True), 1):
        if name != expected:
            faults.append(f"{file}: number {place} is '{name}', but '{expected}' by domains.yaml")
            break
    return faults


def _describe_odd(orders: list[Any]) -> str:
    counts = Counter(map(str, orders))
    odd = [order for order, count in counts.items() if count > 1 or not order.isdigit()]
    return f"{', '.join(odd)} more than once or as no number" if odd else "gaps"


def _show(value: object) -> str:
    return f"'{value}'" if isinstance(value, str) else str(value)
