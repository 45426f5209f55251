"""Neither the processes that serve turns nor the other verbs load the benches."""

import subprocess
import sys
from pathlib import Path

import runtime

ENTRY = "runtime.__main__"
"""Runs the command line when it is imported."""

SCRIPT = """
import importlib, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print(*(name for name in sys.modules if name.startswith("runtime.bench")))
"""


def list_modules() -> list[str]:
    """Every module of the runtime but the benches and its entry."""
    root = Path(runtime.__file__).parent
    paths = (path.relative_to(root.parent).with_suffix("") for path in sorted(root.rglob("*.py")))
    names = (".".join(path.parts).removesuffix(".__init__") for path in paths)
    return [name for name in names if not name.startswith("runtime.bench") and name != ENTRY]


def test_no_other_module_of_the_runtime_loads_the_benches() -> None:
    modules = list_modules()
    assert {
        "runtime.child",
        "runtime.supervisor",
        "runtime.cli.__main__",
        "runtime.facade.server",
        "runtime.cli.up",
    } <= set(modules)
    command = [sys.executable, "-c", SCRIPT, *modules]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == []
