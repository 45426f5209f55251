"""Settings: file under environment under options; a typo is an error that names itself."""

from pathlib import Path

import pytest

from runtime.settings import environment, load
from schemas.errors import SetupError


@pytest.fixture(autouse=True)
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "kiki.toml"
    monkeypatch.setenv("KIKI_CONFIG", str(path))
    for name in ("KIKI_PORT", "KIKI_MODEL", "KIKI_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    return path


def test_options_win_over_the_environment_and_it_over_the_file(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text('port = 1\nmodel = "file"\n[agents.memory]\nmax_hits = 3\n')
    assert (load().port, load().model, load().agents) == (1, "file", {"memory": {"max_hits": 3}})
    monkeypatch.setenv("KIKI_PORT", "2")
    assert load().port == 2
    assert load(port=3).port == 3


@pytest.mark.parametrize(
    ("text", "field"), [("prot = 1", "prot"), ("port = 99999", "port"), ('prefix = "a b"', "prefix")]
)
def test_a_wrong_setting_is_named(config: Path, text: str, field: str) -> None:
    config.write_text(text)
    with pytest.raises(SetupError, match=f"setting '{field}'"):
        load()


def test_a_file_that_is_not_toml_is_one_line(config: Path) -> None:
    config.write_text("= =")
    with pytest.raises(SetupError, match="cannot be read"):
        load()


def test_a_child_process_sees_the_same_settings(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config.write_text('[api_keys]\nkey = "tenant"\n[agents.memory]\nmax_hits = 3\n')
    given = load(port=7, adapters=config.parent)
    variables = environment(given)
    config.write_text("")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert load() == given
