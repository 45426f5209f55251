"""The texts of the fidelity bench."""

from pathlib import Path

import pytest

from runtime.bench.fidelity import read_texts
from schemas.errors import SetupError


def test_the_texts_are_the_documents_and_the_code_of_the_rooms() -> None:
    texts = {kind: "".join(part) for kind, part in read_texts(Path(__file__).parents[3]).items()}
    assert "# The worker" in texts["documents"]
    assert "def read_texts" in texts["code"]
    assert "def test_" not in texts["code"]


def test_an_installed_package_without_documents_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "runtime").mkdir()
    (tmp_path / "runtime" / "module.py").write_text("pass")
    with pytest.raises(SetupError, match="no documents: run this bench in a checkout"):
        read_texts(tmp_path)
