"""Runs shell commands in a scratch folder, and judges whether a reply does what the reference does.

A reply is a model's: it runs in an empty environment, in a folder of its own, for a short time, with the few programs
of :data:`PROGRAMS`, and not at all when it names a place outside of that folder or ends processes.
"""

import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from runtime.bench.experts.verdict import ExpertVerdict, extract_block

SECONDS = 5.0
"""How long a command may run."""

_PROGRAM_NAMES = (
    "awk basename bash cat chmod cmp comm cp cut date diff dirname du egrep env expr false file find fold grep head ln "
    "ls mkdir mv nl od paste printf rm rmdir sed seq sh sort stat tac tail tar tee touch tr true uniq wc xargs"
)
PROGRAMS = tuple(_PROGRAM_NAMES.split())
"""What a command finds on its path, besides what bash has built in."""

_ROOT_NAMES = "|".join(sorted(re.escape(name) for name in {*os.listdir("/"), "etc", "home", "Users"}))
_OUTSIDE = re.compile(
    rf"""(?:^|[^\w.])/(?:{_ROOT_NAMES})(?!/(?:null|stderr|stdout)\b)\b  # a folder of this machine, quoted or not
    | (?:^|[\s=<>(:|&;])/(?!dev/(?:null|stderr|stdout)\b)[\w*?.]       # any other absolute path, unless quoted
    | \b(?:find|rm|ls|cp|mv|chmod|grep|du|cat|tar|cd|ln|tee)\b[^|;&]*\s['"]?/(?:['"*\s]|$)
    | \.\.(?:/|\s|$) | ~\w | \$\{{?(?:PWD|OLDPWD)""",
    re.VERBOSE,
)
_FORBIDDEN = re.compile(
    r"(?<!-)\bexec\b|\b(?:kill\w*|pkill|sudo|su|eval|source|trap|reboot|shutdown|mount|ulimit)\b|/dev/tcp"
)
_ORDERED = re.compile(r"\b(?:sort|head|tail|tac|sed|awk|ls|seq)\b")


@dataclass(frozen=True)
class CommandOutcome:
    """What a command printed, and the folder afterwards: by path its content, or "folder", and its rights."""

    code: int
    output: str
    files: dict[str, tuple[str, int]]


def is_contained(command: str) -> bool:
    """Whether a command keeps to its folder, as far as reading it can tell."""
    code = "\n".join(line for line in command.splitlines() if not line.startswith("#"))
    return not (_OUTSIDE.search(code) or _FORBIDDEN.search(code))


def run_command(folder: str, command: str) -> CommandOutcome:
    """Make a scratch folder with the script ``folder``, and run ``command`` in it.

    Raises:
        ValueError: the command may reach out of its folder, or takes too long.
    """
    if not is_contained(command):
        raise ValueError(f"it may reach out of its folder: {command}")
    with tempfile.TemporaryDirectory(prefix="kiki-experts-") as scratch:
        place, programs = Path(scratch, "work"), Path(scratch, "bin")
        place.mkdir()
        programs.mkdir()
        for name in PROGRAMS:
            if (path := shutil.which(name)) is not None:
                (programs / name).symlink_to(path)
        _run(place, programs, folder)
        process = _run(place, programs, f"ulimit -f 2000; set -f; set +f\n{command}")
        return CommandOutcome(process.returncode, process.stdout, _read_files(place))


def _run(place: Path, programs: Path, script: str) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(
            [str(programs / "bash"), "--noprofile", "--norc", "-c", script],
            cwd=place,
            env={"PATH": str(programs), "HOME": str(place), "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"it takes longer than {SECONDS:.0f} s") from error


def _read_files(place: Path) -> dict[str, tuple[str, int]]:
    files = {}
    for path in sorted(place.rglob("*")):
        name, rights = path.relative_to(place).as_posix(), path.lstat().st_mode & 0o777
        if path.is_symlink():
            files[name] = (f"-> {os.readlink(path)}", 0)
        elif path.is_dir():
            files[name] = ("folder", rights)
        else:
            files[name] = (path.read_text(errors="replace") if path.suffix != ".tar" else "archive", rights)
    return files


def judge_command(reply: str, reference: str, folder: str) -> ExpertVerdict:
    """Right when the reply's commands print what the reference prints and leave the same files; lines count in their
    order where the reference sets one. Alone when the reply is one command and one comment line under it."""
    expected = run_command(folder, reference)
    command = _extract_command(reply)
    try:
        outcome = run_command(folder, command)
    except ValueError:
        return ExpertVerdict(False)
    ordered = _ORDERED.search(reference) is not None
    right = outcome.files == expected.files and _arrange(outcome.output, ordered) == _arrange(expected.output, ordered)
    lines = reply.strip().splitlines()
    form = len(lines) == 2 and not lines[0].startswith("#") and lines[1].startswith("# ")
    return ExpertVerdict(right, alone=right and form)


def _extract_command(reply: str) -> str:
    """The first fenced block; or else the first line in single backquotes; or else the whole reply."""
    if "```" in reply:
        return extract_block(reply)
    match = re.search(r"(?<!`)`([^`\n]+)`(?!`)", reply)
    return match[1] if match and not reply.strip().splitlines()[-1].startswith("# ") else reply.strip()


def _arrange(output: str, ordered: bool) -> list[str]:
    lines = [" ".join(line.removeprefix("./").split()) for line in output.strip().splitlines()]
    return lines if ordered else sorted(lines)
