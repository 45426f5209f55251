"""What each process holds once it has imported what it serves with: modules, memory, and none of the heavy packages."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runtime.agents import FACADE, default_agents
from runtime.composition import group_by_process

MODULES, FACADE_MODULES = 700, 900
MEGABYTES = 60.0

TERMINAL = {"rich", "typer"}
HEAVY = {"torch", "transformers", "sentence_transformers", "mlx", "numpy", "scipy", "sklearn", "runtime.bench"}

AGENTS_PROBE = """
from runtime import child
child.hide_unused(sys.argv[1:])
from runtime import composition, observability, process
from runtime.settings import load_settings
settings = load_settings()
observability.configure(settings, service="probe")
for name in sys.argv[1:]:
    if name == "facade":
        from agents.router.aliases import load_aliases
        from runtime.facade import FacadeSettings, serve
        load_aliases()
    else:
        agent = composition.build_agent(name, settings)
"""
"""A child's imports: its agents are built, none is run."""

SUPERVISOR_PROBE = """
import typer
from runtime.cli.__main__ import app
typer.main.get_group(app).get_command(None, "up")
from runtime import models
from runtime.settings import load_settings
settings = load_settings()
ready = [models.find_ready(name) for name in (settings.model, settings.embedder)]
"""
"""The imports of ``kiki up``, which looks whether its models are ready."""

REPORT = """
import json, psutil
loaded = {name for name, module in sys.modules.items() if module is not None}
megabytes = psutil.Process().memory_info().rss / 2**20
names = loaded | {name.split(".")[0] for name in loaded}
print(json.dumps({"modules": len(loaded), "megabytes": megabytes, "names": sorted(names)}))
"""


def measure(directory: Path, probe: str, *arguments: str) -> dict[str, Any]:
    """Modules (a count), megabytes (resident) and names of modules and packages of a fresh interpreter."""
    environment = {**os.environ, "KIKI_CONFIG": str(directory / "none.toml"), "KIKI_DATA_DIR": str(directory)}
    code = f"import sys\n{probe}\n{REPORT}"
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    report: dict[str, Any] = json.loads(result.stdout)
    return report


def measure_small(directory: Path, probe: str, *arguments: str) -> dict[str, Any]:
    """:func:`measure` with all modules compiled: compiling them takes memory, too."""
    measure(directory, probe, *arguments)
    return measure(directory, probe, *arguments)


@pytest.mark.skipif("coverage" in sys.modules, reason="what counts coverage takes room itself")
@pytest.mark.parametrize(
    ("agents", "modules"),
    [
        (group_by_process(default_agents())["cognition"], MODULES),
        (("services", "tenants"), MODULES),
        (group_by_process(default_agents())["dream"], MODULES),
        ((FACADE,), FACADE_MODULES),
    ],
    ids=["cognition", "services", "dream", "facade"],
)
def test_a_process_without_model_and_store_is_small(agents: tuple[str, ...], modules: int, tmp_path: Path) -> None:
    report = measure_small(tmp_path, AGENTS_PROBE, *agents)
    assert report["modules"] <= modules
    assert report["megabytes"] <= MEGABYTES
    assert (HEAVY | TERMINAL | {"runtime.cli"}).intersection(report["names"]) == set()


@pytest.mark.skipif("coverage" in sys.modules, reason="what counts coverage takes room itself")
def test_the_supervisor_is_small(tmp_path: Path) -> None:
    report = measure_small(tmp_path, SUPERVISOR_PROBE)
    assert report["modules"] <= MODULES
    assert report["megabytes"] <= MEGABYTES
    assert HEAVY.intersection(report["names"]) == set()  # rich and typer are its terminal


def test_the_memory_loads_no_model_library(tmp_path: Path, small_model: Path) -> None:
    report = measure(tmp_path, AGENTS_PROBE, "memory")
    foreign = HEAVY - {"numpy"} | TERMINAL | {"runtime.cli"}
    assert foreign.intersection(report["names"]) == set()


def test_the_worker_reads_its_tokenizer_without_torch(tmp_path: Path, small_model: Path) -> None:
    load = "\nfrom agents.inference.agent import _make_engine\n_make_engine(agent.settings).thread._load()"
    report = measure(tmp_path, AGENTS_PROBE + load, "inference")
    assert {"mlx", "transformers"} <= set(report["names"])
    assert {"torch", "runtime.cli"}.intersection(report["names"]) == set()


def test_agents_that_share_a_process_keep_what_one_of_them_uses(tmp_path: Path) -> None:
    probe = "from runtime import child\nchild.hide_unused(sys.argv[1:])"
    hidden = "\nsys.stderr.write(' '.join(sorted(name for name, module in sys.modules.items() if module is None)))"

    def hide(*agents: str) -> set[str]:
        code = f"import sys\n{probe}{hidden}"
        result = subprocess.run([sys.executable, "-c", code, *agents], capture_output=True, text=True, check=True)
        return set(result.stderr.split())

    assert hide("inference") == {"torch"}
    assert hide("router", "memory") == {"rich"}
    assert hide("inference", "router") == set()
    assert hide("router", "nerve-wml") == set()
    assert hide("services", "facade") == {"rich"}
