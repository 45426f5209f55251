"""Judges the answers to everyday questions: by patterns, by running Python, by running SQL."""

import re
import sqlite3
import subprocess
import sys
import tempfile
from typing import Literal

import msgspec

from runtime.bench.harness import read_data

PYTHON_SECONDS = 10
"""How long an answer's program may run."""

PASSED = 93
"""Exit code of a program whose check held; one that leaves early with code 0 has not been checked."""

USERS = (("cid", 25), ("bob", 41), ("ann", 35), ("dan", 30))
"""The rows of the table ``users`` that an answer's query runs on: name and age."""

_RUN = f"""
import contextlib, resource, sys
for kind, limit in (("RLIMIT_CPU", {PYTHON_SECONDS}), ("RLIMIT_AS", 2**30), ("RLIMIT_FSIZE", 2**20)):
    with contextlib.suppress(ValueError, OSError):  # not every system has every limit
        resource.setrlimit(getattr(resource, kind), (limit, limit))
exec(compile(sys.stdin.read(), "answer", "exec"), {{"__name__": "__main__"}})
raise SystemExit({PASSED})
"""
_FENCE = re.compile(r"```[^\n]*\n(.*?)(?:```|\Z)", re.DOTALL)
_QUERY = re.compile(r"\bselect\b[^;]*", re.IGNORECASE)
_ESCAPE = re.compile(r"\\.")


class EverydayQuestion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A question of ``data/everyday.jsonl`` and the rules for its answer.

    All patterns of ``expected`` must be in the answer, and none of ``wrong``. With a ``language`` the answer is code:
    Python runs with the assertions of ``check`` after it, an SQL query must list the names in ``check`` from
    :data:`USERS`, and a shell command must match the pattern ``check``.
    """

    kind: str
    question: str
    expected: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    language: Literal["python", "sql", "shell"] | None = None
    check: str = ""

    def is_right(self, answer: str) -> bool:
        """Whether ``answer`` is right. Python code of it runs in a process of its own, for at most 10 s."""
        if any(matches(pattern, answer) for pattern in self.wrong):
            return False
        if not all(matches(pattern, answer) for pattern in self.expected):
            return False
        match self.language:
            case "python":
                return run_python(extract_code(answer), self.check)
            case "sql":
                return run_query(extract_code(answer)) == self.check
            case "shell":
                return matches(self.check, answer)
            case None:
                return True


def read_everyday_questions() -> tuple[EverydayQuestion, ...]:
    """All questions, by kind."""
    return read_data("everyday", EverydayQuestion)


def matches(pattern: str, answer: str) -> bool:
    """Whether a pattern is somewhere in the answer.

    Case counts only where the pattern has an upper-case letter, those of escapes such as ``\\W`` left out: ``\\bAu\\b``
    is the symbol of gold, and ``au`` is not.
    """
    has_upper = any(letter.isupper() for letter in _ESCAPE.sub("", pattern))
    return re.search(pattern, answer, 0 if has_upper else re.IGNORECASE) is not None


def extract_code(answer: str) -> str:
    """The first fenced block of an answer, closed or not; the whole answer where there is none."""
    block = _FENCE.search(answer)
    return block[1] if block else answer


def run_python(code: str, check: str) -> bool:
    """Whether ``code`` runs with the assertions of ``check`` after it, within its time, memory and file size."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            program = subprocess.run(
                [sys.executable, "-I", "-c", _RUN],
                input=f"{code}\n{check}\n".encode(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env={},
                timeout=PYTHON_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return False
    return program.returncode == PASSED


def run_query(code: str) -> str | None:
    """What the first ``SELECT`` of ``code`` gives on :data:`USERS`, joined by blanks; None where it cannot run."""
    query = _QUERY.search(code)
    if query is None:
        return None
    database = sqlite3.connect(":memory:")
    try:
        database.execute("CREATE TABLE users (name TEXT, age INTEGER)")
        database.executemany("INSERT INTO users VALUES (?, ?)", USERS)
        return " ".join(str(value) for row in database.execute(query[0]) for value in row)
    except sqlite3.Error:
        return None
    finally:
        database.close()
