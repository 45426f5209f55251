"""Which adapter lies where: the subfolders of an adapters folder, and the names that they are served under.

A subfolder with ``adapter_config.json`` and a weights file is an adapter. The router asks for adapters by niche domain,
so a folder is looked for as that domain in this order: its name is the domain (``rust``), its ``adapter_config.json``
has the key ``"domain"``, its name is ``stack-NN-<domain>``. Nothing here reads a tensor.
"""

import contextlib
import functools
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from agents.shared.domains import load_taxonomy
from schemas.errors import SetupError

CONFIG = "adapter_config.json"
MLX_WEIGHTS = "adapters.safetensors"
PEFT_WEIGHTS = "adapter_model.safetensors"
STACK_META = "stack_meta.json"
"""Written beside the weights by KIKI-Mac_tunner's MoE-LoRA training, whose tensors have ``moe_lora`` in their names."""
MOE_LORA = "moe_lora"
STAGED = ".staged-"
"""Marks the folder of an adapter that is judged before it takes another's place: it has its own name and no domain."""

NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,127}")
"""Names that an adapter can be asked for by."""
_STACK = re.compile(r"stack-(?P<number>\d+)-(?P<domain>.+)")
_HEADER_LIMIT = 100_000_000
"""Bytes of a safetensors header; the format allows no more."""


@dataclass(frozen=True)
class Stranger:
    """A subfolder that the router will never ask for, with the reason and its mend."""

    path: Path
    reason: str


@dataclass(frozen=True)
class AdapterSurvey:
    """What an adapters folder holds: ``paths`` by the name that an adapter is asked for by, sorted, and ``strangers``.

    An adapter under a name that is no domain is in both: requests and ``kiki adapters`` can name it.
    """

    paths: Mapping[str, Path]
    strangers: tuple[Stranger, ...]


@dataclass(frozen=True, order=True)
class _Claim:
    """One folder's claim to a name; the greatest claim wins."""

    by_exact_name: bool
    by_key: bool
    stack_number: int
    folder: str
    name: str = field(compare=False)


def find_weights(folder: Path) -> Path | None:
    """The file with an adapter's tensors; None when the folder holds no adapter."""
    paths = (folder / name for name in (MLX_WEIGHTS, PEFT_WEIGHTS))
    return next((path for path in paths if path.is_file()), None) if (folder / CONFIG).is_file() else None


def survey_adapters(folder: Path) -> AdapterSurvey:
    """The adapters of a folder. Subfolders whose names begin with a dot are passed over.

    The result is kept until the folder, a subfolder or an ``adapter_config.json`` changes: asking again costs two
    stats a subfolder, so that a request can ask.

    Raises:
        SetupError: the folder does not exist or cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError as error:
        raise SetupError(
            f"no adapters folder at {folder} ({error.strerror}): create it, or leave the setting out.", param="adapters"
        ) from error
    return _survey(folder, tuple((name, *_stamp(folder / name)) for name in names))


def name_of(folder: Path) -> str:
    """The name that an adapter's folder claims by itself, whatever lies beside it: a domain, or the folder's own."""
    return _claim(folder)[0].name


def read_config(folder: Path) -> dict[str, Any]:
    """The object in a folder's ``adapter_config.json``; empty when it cannot be read, which loading it will report."""
    try:
        config = json.loads((folder / CONFIG).read_bytes())
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def read_header(weights: Path) -> dict[str, Any]:
    """The header of a safetensors file: dtype, shape and place of each tensor by its name.

    Raises:
        ValueError: the file does not begin with such a header.
        OSError: it cannot be read.
    """
    with weights.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 0 < length <= min(_HEADER_LIMIT, weights.stat().st_size - 8):
            raise ValueError("it has no safetensors header")
        header = json.loads(file.read(length))
    if not isinstance(header, dict):
        raise ValueError("its safetensors header is no object")
    header.pop("__metadata__", None)
    return header


def is_moe_lora(folder: Path) -> bool:
    """Whether a folder holds KIKI-Mac_tunner's MoE-LoRA: ``stack_meta.json`` without a LoRA configuration beside it, or
    tensors of that name."""
    if (folder / STACK_META).is_file() and not (folder / CONFIG).is_file():
        return True
    weights = folder / MLX_WEIGHTS
    try:
        return weights.is_file() and any(MOE_LORA in name for name in read_header(weights))
    except (OSError, ValueError):
        return False


def describe_moe_lora(domain: str = "DOMAIN") -> str:
    """Why MoE-LoRA is not served, and what to do."""
    return (
        f"it is MoE-LoRA of KIKI-Mac_tunner ({STACK_META}, tensors named {MOE_LORA}), whose own router picks an expert "
        f"for each token; that is no plain LoRA and is not served: train the domain again, 'kiki train {domain}'"
    )


def _stamp(folder: Path) -> tuple[int, int, int]:
    """Changes when a file appears in the folder or goes, or when the configuration is written."""
    changed = written = size = 0
    with contextlib.suppress(OSError):  # a folder may go, or have no configuration
        changed = folder.stat().st_mtime_ns
        status = (folder / CONFIG).stat()
        written, size = status.st_mtime_ns, status.st_size
    return changed, written, size


@functools.lru_cache(maxsize=16)
def _survey(folder: Path, stamps: tuple[tuple[str, int, int, int], ...]) -> AdapterSurvey:
    claims: dict[str, list[_Claim]] = {}
    strangers: list[Stranger] = []
    for path in (folder / name for name, *_ in stamps):
        if (reason := _unusable(path)) is None:
            claim, reason = _claim(path)
            claims.setdefault(claim.name, []).append(claim)
        if reason is not None:
            strangers.append(Stranger(path, reason))
    winners = {name: max(rivals) for name, rivals in claims.items()}
    strangers += [
        Stranger(folder / claim.folder, f"{winners[name].folder} is served as '{name}': remove one of the two")
        for name, rivals in claims.items()
        for claim in rivals
        if claim is not winners[name]
    ]
    paths = {name: folder / winners[name].folder for name in sorted(winners)}
    return AdapterSurvey(MappingProxyType(paths), tuple(sorted(strangers, key=lambda stranger: stranger.path)))


def _unusable(path: Path) -> str | None:
    """Why a folder is no adapter; None when it is one."""
    stack = _STACK.fullmatch(path.name)
    if is_moe_lora(path):
        return describe_moe_lora(stack["domain"] if stack else path.name)
    if find_weights(path) is None:
        return f"it is no adapter: that is {CONFIG} with {MLX_WEIGHTS} (mlx-lm) or {PEFT_WEIGHTS} (PEFT)"
    if NAME.fullmatch(name_of(path)) is None:
        return "its name cannot be asked for: name the folder <domain> or stack-NN-<domain>"
    return None


def _claim(path: Path) -> tuple[_Claim, str | None]:
    """The name that an adapter's folder claims, and what a person should know of it."""
    if STAGED in path.name:
        return _Claim(False, False, -1, path.name, path.name), None
    domains, key = load_taxonomy().domains, read_config(path).get("domain")
    stack = _STACK.fullmatch(path.name)
    number = int(stack["number"]) if stack else -1
    has_key = isinstance(key, str) and key in domains
    unknown_key = None if key is None or has_key else f"its key domain says {key!r}, which is no domain"
    if path.name in domains:
        other = f"its key domain says {key!r}, but the folder's name counts" if has_key and key != path.name else None
        return _Claim(True, has_key, number, path.name, path.name), unknown_key or other
    if has_key:
        return _Claim(False, True, number, path.name, str(key)), None
    if stack and stack["domain"] in domains:
        return _Claim(False, False, number, path.name, stack["domain"]), unknown_key
    reason = unknown_key or "its name is no domain, so the router never asks for it"
    mend = f'name the folder <domain> or stack-NN-<domain>, or give its {CONFIG} a key "domain"'
    return _Claim(False, False, number, path.name, path.name), f"{reason}: {mend}"
