"""Copies the client's modules from the repository at build time, under one import name.

A source distribution holds the copies already and has no repository around it; then nothing is copied.
"""

import re
import shutil
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
TREE = HERE.parents[1]
TARGET = HERE / "src" / "micro_kiki_client"

BUS = (
    "access/address",
    "access/login",
    "client",
    "deliveries",
    "errors",
    "guest",
    "guest_requests",
    "handling/cancellation",
    "handling/endpoint",
    "handling/letter",
    "handling/message",
    "request",
    "storage/bucket",
    "subjects",
    "tenant_client",
    "topology",
    "turn",
)
_IMPORT = re.compile(r"^(\s*)from (schemas|bus)(\.| import )", re.MULTILINE)
_STRICT = "forbid_unknown_fields=True"
"""The runtime refuses fields that it does not know; a client ignores those that a newer runtime adds."""


def read_module(source: Path) -> str:
    """A module's text, with its imports under the client's name and its structs open for unknown fields."""
    text = source.read_text(encoding="utf-8")
    return _IMPORT.sub(r"\1from micro_kiki_client.\2\3", text).replace(_STRICT, "forbid_unknown_fields=False")


def copy_modules() -> None:
    """Fill ``src`` from the repository."""
    shutil.rmtree(TARGET, ignore_errors=True)
    modules = [TREE / "bus" / f"{name}.py" for name in BUS]
    modules += [path for path in (TREE / "schemas").glob("*.py") if path.stem != "__init__"]
    for source in modules:
        target = TARGET / source.relative_to(TREE)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(read_module(source), encoding="utf-8")
    for package in {path.parent for path in TARGET.rglob("*.py")}:
        name = package.relative_to(TARGET).as_posix()
        (package / "__init__.py").write_text(f'"""From micro-kiki\'s ``{name}``."""\n', encoding="utf-8")
    shutil.copy(HERE / "package.py", TARGET / "__init__.py")
    (TARGET / "py.typed").touch()


if (TREE / "schemas" / "envelope.py").exists():
    copy_modules()
setup()
