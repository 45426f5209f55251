"""The commands of docs/howto/train-an-adapter.md are run as they are written."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import yaml

from runtime.training.curriculum import KINDS
from runtime.training.generation import make_curriculum
from tests.agents.inference.bases import write_base
from tests.runtime.training.test_train import RECIPE, write_set

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "howto" / "train-an-adapter.md").read_text(encoding="utf-8")


def test_the_page_runs_from_its_first_command_to_its_last(tmp_path: Path, small_model: Path) -> None:
    base = write_base(tmp_path / "base", small_model)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(RECIPE | {"model": str(base), "data": "unused", "iters": 2}))
    script = tmp_path / "bin" / "kiki"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m runtime.cli "$@"\n')
    script.chmod(0o755)
    places = {
        "PATH": os.pathsep.join((str(script.parent), os.environ["PATH"])),
        "PYTHONPATH": str(ROOT),
        "KIKI_DATA_DIR": str(tmp_path / "kiki"),
        "BASE": str(base),
        "RECIPE": str(recipe),
        "DATA": str(write_set(tmp_path / "merged" / "sql")),
        "ROOT": str(tmp_path / "merged"),
        "STACKS": str(tmp_path / "stacks"),
    }
    blocks = re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 4
    for block in blocks:
        outcome = subprocess.run(
            ["bash", "-e", "-c", block],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | places,
            cwd=tmp_path,
        )
        assert outcome.returncode == 0, f"{block}\n{outcome.stdout}\n{outcome.stderr}"
    assert "finished before" in outcome.stdout  # the curriculum skips what the first command trained
    assert json.loads((tmp_path / "stacks" / "sql" / "adapter_config.json").read_bytes())["domain"] == "sql"


def test_the_page_names_the_iterations_of_the_curriculum() -> None:
    counts = {kind: [phase.iterations for phase in make_curriculum() if phase.kind == kind] for kind in KINDS}
    niches = f"{min(counts['niches'])} to {max(counts['niches'])} (niches)"
    assert f"{counts['foundations'][0]} (foundations), {counts['coding'][0]} (coding) or {niches}" in PAGE
