"""The catalogue of stock clients says what is true, and the documentation says what the catalogue does."""

from pathlib import Path

import pytest

from tests.clients.catalogue import CLIENTS, FOLDER, StockClient

DOCUMENT = Path(__file__).parents[2] / "docs" / "http.md"

by_name = pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client.name)


def render_table() -> str:
    """The table of the documentation."""
    rows = [f"| {client.name} | {client.language} | {client.version} | {client.covers} |" for client in CLIENTS]
    return "\n".join(["| client | for | version | what is tried |", "|---|---|---|---|", *rows])


def test_the_documentation_has_the_table_of_all_clients() -> None:
    assert render_table() in DOCUMENT.read_text(encoding="utf-8")


def test_names_are_unique() -> None:
    assert len({client.name for client in CLIENTS}) == len(CLIENTS)


@by_name
def test_a_client_has_a_pin_and_checks_of_different_names(client: StockClient) -> None:
    assert client.version[0].isdigit()
    assert client.checks
    assert len(set(client.checks)) == len(client.checks)


@by_name
def test_the_core_is_among_the_checks(client: StockClient) -> None:
    assert set(client.core) <= set(client.checks)


def test_every_program_has_its_client() -> None:
    shared = {"python/harness.py", "python/models.py", "node/harness.mjs", "node/models.mjs", "go/harness/harness.go",
              "java/Report.java", "rust/src/harness.rs"}  # fmt: skip
    programs = {
        path.relative_to(FOLDER).as_posix()
        for pattern in ("python/*.py", "node/*.mjs", "go/*/*.go", "java/*.java", "java/*/*.java", "rust/src/*.rs")
        for path in FOLDER.glob(pattern)
    }
    assert programs - shared == {client.program for client in CLIENTS}
