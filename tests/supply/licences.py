"""Compares the licence texts of all that the project installs with a list: ``python -m tests.supply.licences``.

What a package's metadata calls its licence does not count, for it is sometimes wrong. Each text is known by sentences
of it; a file may hold several licences, and all that are found must be allowed. The list is in
``deploy/requirements/licences.toml``, with the packages that are used in spite of it, and the reason.

What somebody adds to a known licence in words of his own is not seen.
"""

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from fnmatch import fnmatch
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
TABLE = ROOT / "deploy" / "requirements" / "licences.toml"

LICENCE_FILE = re.compile(r"(?i)(?:^|[/.])(?:licen[cs]es?|copying|copyright|eula|unlicense)(?:[^/\w][^/]*|_[^/]*)?$")
NOTICE_FILE = re.compile(r"(?i)(?:^|/)notice[^/]*$")
"""It may name a licence, and need not."""

NO_TEXT = (".py", ".pyc", ".pyi", ".h", ".hpp", ".so", ".json", ".ABOUT")

SIGNS = {
    "AGPL": r"affero|\bagpl",
    "LGPL": r"gnu (?:lesser|library) general public licen[cs]e|\blgpl",
    "GPL": r"gnu general public licen[cs]e|\bgpl",
    "MPL-2.0": r"mozilla public license,? (?:version|v\.?) ?2\.0",
    "EPL": r"eclipse public license",
    "SSPL-1.0": r"server side public license",
    "BUSL-1.1": r"business source license",
    "Elastic-2.0": r"elastic license",
    "Commons Clause": r"commons clause",
    "non-commercial": r"non-?commercial (?:use|purposes?|research)",
    "NVIDIA": r"license agreement for nvidia|nvidia (?:software|end user|math libraries)[^.]{0,60}license agreement",
    "Apache-2.0": r"apache license,? version 2\.0",
    "MIT": r"permission is hereby granted, free of charge, to any person obtaining a copy",
    "BSD": r"redistribution and use in source and binary forms, with or without modification, are permitted",
    "ISC": r"permission to use, copy, modify,? and/?(?:or)? distribute this software for any purpose with or",
    "HPND": r"permission to use, copy, modify,? and distribute this software and its (?:associated )?documentation",
    "PSF-2.0": r"python software foundation license version 2",
    "CNRI-Python": r"cnri license agreement|secret labs ab",
    "BSL-1.0": r"boost software license",
    "Zlib": r"this software is provided 'as-is', without any express or implied warranty",
    "Qhull": r"qhull is free software and may be obtained",
    "CC0-1.0": r"cc0 1\.0 universal|dedicated all copyright and .{0,70}to the public domain",
    "CC-BY-4.0": r"creative commons attribution 4\.0",
    "Unlicense": r"this is free and unencumbered software released into the public domain",
    "OFL-1.1": r"sil open font license",
    "a file beside it": r"terms of \*?either\*? of the licenses found in",
}
"""A pattern for each licence, over a text in lower case without comment signs, its words separated by single spaces."""

MENTIONS = re.compile(
    r"|".join(
        (
            r'"?secondary license"? means either .{0,200}any later versions of those licenses',
            r"gpl-compatible|owner gpl- from compatible|distributing python under the gpl|unlike the gpl",
            r'other software that is released under the gpl|"not incompatible" with the gpl',
            r"previously distributed under the gnu general public license \(gpl\)",
            r'licensed under the gplv2 \("combined software"\).{0,300}conditions of the gplv2',
            r"13\. use with the gnu affero general public license.{0,800}apply to the combination as such",
            r"use the gnu lesser general public license instead of this license|licenses/why-not-lgpl",
        )
    )
)
"""Where the texts of the MPL, of Python, LLVM's exception and the GPL speak of licences that they do not grant."""


def main() -> None:
    """Print what is wrong, a line each; exit with 1 when something is."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    packages = list(find_packages(lines))
    findings = list(check_packages(packages, tomllib.loads(TABLE.read_text(encoding="utf-8"))))
    print(*findings, f"{len(packages)} packages: {len(findings)} findings in their licences", sep="\n")
    sys.exit(bool(findings))


def find_packages(requirements: Iterable[str]) -> Iterator[Distribution]:
    """All installed packages that these need, directly or not, by name; pip aside, which comes with Python."""
    found: dict[tuple[str, str], Distribution] = {}
    waiting = [(Requirement(line), "") for line in requirements]
    while waiting:
        needed, wanted_by = waiting.pop()
        if needed.marker is not None and not needed.marker.evaluate({"extra": wanted_by}):
            continue
        for key in ((canonicalize_name(needed.name), extra) for extra in ("", *needed.extras)):
            if key not in found:
                try:
                    found[key] = distribution(needed.name)
                except PackageNotFoundError:
                    raise SystemExit(f"'{needed}' is required and not installed: run 'make dev'") from None
                waiting += [(Requirement(line), key[1]) for line in found[key].requires or ()]
    packages = {name: package for (name, _), package in found.items() if name != "pip"}
    return (packages[name] for name in sorted(packages))


def check_packages(packages: Iterable[Distribution], table: dict[str, Any]) -> Iterator[str]:
    """What is not allowed, and what the table excepts although no package needs it."""
    allowed = set(table["allowed"])
    entries = [(entry, set(entry["licences"])) for entry in table["unusual"]]
    for package in packages:
        name = canonicalize_name(package.name)
        left = name_package_licences(package) - allowed
        for entry, unused in entries:
            if fnmatch(name, entry["package"]):
                unused -= left
                left -= set(entry["licences"])
        for licence in sorted(left):
            yield f"{name} {package.version}: '{licence}' is neither allowed nor excepted in {TABLE.name}"
    for entry, unused in entries:
        if unused and not entry.get("optional") and entry.get("platform", sys.platform) == sys.platform:
            yield f"{entry['package']}: {TABLE.name} excepts {sorted(unused)}, which no text has"


def name_package_licences(package: Distribution) -> set[str]:
    """The licences in the package's texts, those of what it bundles included; "no text" when it has none."""
    licences: set[str] = set()
    has_text = False
    for file in package.files or ():
        is_text = LICENCE_FILE.search(str(file)) is not None
        if (is_text or NOTICE_FILE.search(str(file))) and file.suffix not in NO_TEXT:
            found = name_licences(Path(str(file.locate())).read_text(encoding="utf-8", errors="replace"))
            licences |= found or ({f"unknown text {file.name}"} if is_text else set())
            has_text = has_text or is_text
    return licences if has_text else {"no text", *licences}


def name_licences(text: str) -> set[str]:
    """The licences that a text grants, as far as :data:`SIGNS` knows them."""
    plain = " ".join(re.sub(r"(?m)^[\s/*#>]+", "", text.lower()).split())
    plain = MENTIONS.sub("", plain)
    return {licence for licence, sign in SIGNS.items() if re.search(sign, plain)}


if __name__ == "__main__":
    main()
