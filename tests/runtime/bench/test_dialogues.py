"""Reading LoCoMo's dialogues."""

from pathlib import Path

import pytest

from runtime.bench.dialogues import read_dialogues
from schemas.errors import InvalidInput


def test_a_file_of_another_form_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"no \*\.json"):
        read_dialogues(tmp_path)
    (tmp_path / "x.json").write_text("{}")
    with pytest.raises(InvalidInput, match=r"x\.json is no LoCoMo dialogue"):
        read_dialogues(tmp_path)
