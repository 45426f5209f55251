"""``kiki models``: what a person sees of it."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from runtime.cli.__main__ import app
from tests.runtime.models.standin import serve_hub
from tests.runtime.models.test_models import write_model


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KIKI_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


def run(*arguments: str) -> tuple[int, str]:
    """The exit code, and what was printed."""
    result = CliRunner().invoke(app, ["models", *arguments])
    return result.exit_code, result.output


def test_a_model_is_pulled_listed_verified_and_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_hub(write_model(tmp_path / "source")) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        code, printed = run("pull", "org/tiny")
    assert code == 0
    assert f"fetched once and kept in {tmp_path / 'cache' / 'models'}:\n  org/tiny: from the hub" in printed
    code, printed = run("ls")
    assert (code, "org/tiny" in printed, "491 to fetch" in printed) == (0, True, True)
    code, printed = run("verify", "org/tiny")
    assert (code, printed.splitlines()[-1]) == (0, "org/tiny: ok")
    assert run("rm", "org/tiny") == (0, "org/tiny: 0 MB freed\n")
    code, printed = run("rm", "org/tiny")
    assert code == 2
    assert printed.startswith("kiki: 'org/tiny' is not in the cache")
