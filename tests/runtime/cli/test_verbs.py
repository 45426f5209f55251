"""The command line's verbs: all are listed with their help, and each imports its own module alone."""

import json
import subprocess
import sys

from runtime.cli.__main__ import MODULES

VERBS = {
    "up",
    "run",
    "ask",
    "chat",
    "route",
    "trace",
    "replay",
    "asyncapi",
    "openapi",
    "settings",
    "train",
    "validate",
    "doctor",
    "broker",
    "models",
    "dead",
    "services",
    "soak",
    "dream",
    "router",
    "memory",
    "adapters",
    "knowbias",
    "bench",
}


def run_kiki(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "runtime", *arguments], capture_output=True, text=True, check=False)


def test_help_lists_every_verb_with_what_it_does() -> None:
    listing = run_kiki("--help").stdout.split("Commands:")[1]
    help_by_verb = dict(line.split(maxsplit=1) for line in listing.splitlines() if line.strip())
    assert set(help_by_verb) == VERBS
    assert [verb for verb, text in help_by_verb.items() if not text[0].isupper()] == []


def test_a_misspelt_verb_is_answered_with_the_right_one() -> None:
    result = run_kiki("modles", "ls")
    assert result.returncode == 2
    assert "No such command 'modles'. Did you mean 'models'?" in result.stderr


def test_a_verb_imports_its_own_module_alone() -> None:
    code = """
import json, sys, typer
from runtime.cli.__main__ import app
group = typer.main.get_group(app)
before = [name for name in sys.modules if name.startswith("runtime.cli.")]
assert group.get_command(None, sys.argv[1]).name == sys.argv[1]
print(json.dumps([before, [name for name in sys.modules if name.startswith("runtime.cli.")]]))
"""
    for verb in ("up", "trace", "dead"):
        result = subprocess.run([sys.executable, "-c", code, verb], capture_output=True, text=True, check=True)
        before, after = json.loads(result.stdout)
        assert before == ["runtime.cli.__main__"]
        assert set(after) - set(before) == {MODULES[verb]}
