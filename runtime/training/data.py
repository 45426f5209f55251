"""The data set of a domain: ``{train,valid,test}.jsonl`` in one folder, checked before a base is touched."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from agents.inference.finetuning.examples import FILES, read_example_file
from schemas.errors import SetupError

NAMED_FAULTS = 20
"""Faults that are named; of further ones the number is."""


@dataclass(frozen=True)
class DataSet:
    """A checked data set: its digest, the examples of each file, and the form of a line."""

    folder: Path
    sha256: str
    counts: dict[str, int]
    form: str


def read_data_set(folder: Path, *, batch_size: int) -> DataSet:
    """Check all files of a data set. ``train.jsonl`` must be there; without ``valid.jsonl`` nothing is validated.

    Raises:
        SetupError: a line for each fault, with file and line number.
    """
    if not (folder / "train.jsonl").is_file():
        raise SetupError(f"no examples in {folder}: expected train.jsonl (and valid.jsonl, test.jsonl).", param="data")
    faults: list[str] = []
    counts: dict[str, int] = {}
    forms: dict[str, Path] = {}
    digest = hashlib.sha256()
    for name in FILES:
        path = folder / f"{name}.jsonl"
        if not path.is_file():
            continue
        file = read_example_file(path)
        faults += file.faults
        counts[name] = len(file.examples)
        forms.setdefault(file.form, path)
        if not file.faults and len(file.examples) < batch_size:
            faults.append(f"{path}: {len(file.examples)} examples do not fill one batch of {batch_size}")
        digest.update(f"{name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    if not faults and len(forms) > 1:
        faults.append(f"{folder}: its files have several forms: {', '.join(forms)}")
    if faults:
        more = len(faults) - NAMED_FAULTS
        lines = faults[:NAMED_FAULTS] + ([f"and {more} faults more in {folder}"] if more > 0 else [])
        raise SetupError("\n".join(lines), param="data")
    return DataSet(folder, digest.hexdigest(), counts, next(iter(forms)))
