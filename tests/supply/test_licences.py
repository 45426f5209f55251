"""Licences are known by their texts, whatever a package says of itself."""

from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

import pytest

from tests.supply.licences import check_packages, find_packages, name_licences

MIT = "Copyright (c) 2026 Ann\n\nPermission is hereby granted, free of charge, to any person obtaining a copy of it"
AGPL = "GNU AFFERO GENERAL PUBLIC LICENSE\n   Version 3, 19 November 2007\n\nEveryone is permitted to copy"
TABLE: dict[str, Any] = {"allowed": ["MIT"], "unusual": []}


def write_package(
    folder: Path, name: str, texts: dict[str, str], *, licence: str = "MIT", requires: tuple[str, ...] = ()
) -> Distribution:
    """A package as pip leaves it, with these files beside its metadata."""
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    lines = [f"Name: {name}", "Version: 1.0", f"License: {licence}", *(f"Requires-Dist: {line}" for line in requires)]
    (info / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", *lines, ""]))
    for path, text in texts.items():
        (info / path).parent.mkdir(exist_ok=True)
        (info / path).write_text(text)
    (info / "RECORD").write_text("".join(f"{info.name}/{path},,\n" for path in ("METADATA", *texts)))
    return Distribution.at(info)


def check(package: Distribution, **unusual: Any) -> list[str]:
    entries = [{"package": package.name, "reason": "a test", **unusual}] if unusual else []
    return list(check_packages([package], {**TABLE, "unusual": entries}))


@pytest.mark.parametrize("path", ["LICENSE", "licenses/LICENSE.txt", "licenses/COPYING", "mit.LICENSE", "LICENCE-MIT"])
def test_a_text_of_the_list_is_allowed(tmp_path: Path, path: str) -> None:
    assert check(write_package(tmp_path, "kind", {path: MIT})) == []


def test_an_agpl_text_is_found_though_the_metadata_says_lgpl(tmp_path: Path) -> None:
    package = write_package(tmp_path, "ranker", {"licenses/LICENSE": AGPL}, licence="LGPLv3")
    assert check(package) == ["ranker 1.0: 'AGPL' is neither allowed nor excepted in licences.toml"]


def test_a_second_licence_in_the_same_text_or_beside_it_is_found(tmp_path: Path) -> None:
    (finding,) = check(write_package(tmp_path, "mixed", {"LICENSE": f"{MIT}\n\nThe tests:\n{AGPL}"}))
    assert "'AGPL'" in finding
    (finding,) = check(write_package(tmp_path, "twofold", {"LICENSE": MIT, "NOTICE": "Parts are under the AGPLv3."}))
    assert "'AGPL'" in finding


def test_a_package_without_a_text_is_named(tmp_path: Path) -> None:
    package = write_package(tmp_path, "silent", {"NOTICE": "Made by Ann."})
    assert check(package) == ["silent 1.0: 'no text' is neither allowed nor excepted in licences.toml"]
    assert check(package, licences=["no text"]) == []


def test_a_text_that_nobody_knows_is_named(tmp_path: Path) -> None:
    (finding,) = check(write_package(tmp_path, "odd", {"LICENSE": "Do as I say."}))
    assert "unknown text LICENSE" in finding


def test_an_exception_that_is_not_needed_any_more_is_named(tmp_path: Path) -> None:
    package = write_package(tmp_path, "kind", {"LICENSE": MIT})
    assert check(package, licences=["GPL"]) == ["kind: licences.toml excepts ['GPL'], which no text has"]
    assert check(package, licences=["GPL"], platform="another") == []
    assert check(package, licences=["GPL"], optional=True) == []


@pytest.mark.parametrize(
    ("text", "licences"),
    [
        (f"/*\n * {MIT}\n */".replace("charge, to", "charge,\n * to"), {"MIT"}),
        (
            'Mozilla Public License Version 2.0\n"Secondary License" means either the GNU General Public License, '
            "Version 2.0, the GNU Lesser General Public License, Version 2.1, the GNU Affero General Public License, "
            "Version 3.0, or any later versions of those licenses.",
            {"MPL-2.0"},
        ),
        (
            "GNU GENERAL PUBLIC LICENSE Version 3\n 13. Use with the GNU Affero General Public License. You may link "
            "it with such a work, and the rules of the GNU Affero General Public License will apply to the combination "
            "as such.",
            {"GPL"},
        ),
    ],
)
def test_a_licence_is_what_a_text_grants_not_what_it_mentions(text: str, licences: set[str]) -> None:
    assert name_licences(text) == licences


def test_all_that_is_needed_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_package(tmp_path, "top", {}, requires=("middle[fast]", "never; sys_platform == 'another'"))
    write_package(tmp_path, "middle", {}, requires=("Bottom.Stone; extra == 'fast'", "top"))
    write_package(tmp_path, "bottom-stone", {})
    monkeypatch.syspath_prepend(str(tmp_path))
    assert [package.name for package in find_packages(["top>=1"])] == ["bottom-stone", "middle", "top"]
    with pytest.raises(SystemExit, match="'missing-stone' is required and not installed: run 'make dev'"):
        list(find_packages(["missing-stone"]))
