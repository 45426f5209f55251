"""``kiki asyncapi`` and ``kiki openapi`` print the contracts or write them into a file, the same bytes."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from runtime.cli.__main__ import app
from tests.supply.locking import ROOT


@pytest.mark.parametrize("name", ["asyncapi", "openapi"])
def test_a_contract_is_printed_or_written(name: str, tmp_path: Path) -> None:
    file = tmp_path / "contract.json"
    written = CliRunner().invoke(app, [name, "--output", str(file)])
    assert (written.exit_code, written.output) == (0, "")
    assert file.read_bytes() == (ROOT / "docs" / f"{name}.json").read_bytes(), "run 'make contract'"
    printed = CliRunner().invoke(app, [name])
    assert json.loads(printed.output) == json.loads(file.read_bytes())
