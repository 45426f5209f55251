"""Runs SQL on a small database in memory, and judges whether a reply does what the reference does."""

import re
import sqlite3
from collections.abc import Sequence
from typing import Any

from runtime.bench.experts.verdict import ExpertVerdict, extract_block

MAX_STEPS = 200_000
"""Virtual-machine steps of SQLite that a query may take."""

_STATEMENT = re.compile(r"\b(?:select|with|insert|update|delete)\b[^;]*;?", re.IGNORECASE)
_DENIED = (sqlite3.SQLITE_ATTACH, sqlite3.SQLITE_DETACH, sqlite3.SQLITE_PRAGMA)

Rows = list[tuple[Any, ...]]


def run_query(database: str, query: str) -> tuple[Rows, list[str]]:
    """Run one statement on a database that the script ``database`` makes.

    Returns:
        The rows of the result, and the database's content afterwards as SQL.

    Raises:
        sqlite3.Error: SQLite refuses it, or it takes too long.
    """
    connection = sqlite3.connect(":memory:")
    try:
        connection.executescript(database)
        steps = iter(range(MAX_STEPS // 1000))
        connection.set_authorizer(lambda action, *_: sqlite3.SQLITE_DENY if action in _DENIED else sqlite3.SQLITE_OK)
        connection.set_progress_handler(lambda: next(steps, None) is None, 1000)
        rows = [tuple(_round(value) for value in row) for row in connection.execute(query).fetchall()]
        connection.set_progress_handler(None, 0)
        connection.set_authorizer(None)
        connection.commit()
        return rows, list(connection.iterdump())
    finally:
        connection.close()


def _round(value: Any) -> Any:
    return round(float(value), 6) if isinstance(value, (int, float)) else value


def judge_query(reply: str, reference: str, database: str) -> ExpertVerdict:
    """Right when the reply's first statement gives the reference's rows, in its order where it has one, and leaves the
    same database; alone when the reply is that statement and ends with a semicolon."""
    match = _STATEMENT.search(extract_block(reply))
    if match is None:
        return ExpertVerdict(False)
    expected_rows, expected_content = run_query(database, reference)
    try:
        rows, content = run_query(database, match[0])
    except (sqlite3.Error, sqlite3.Warning):
        return ExpertVerdict(False)
    ordered = " order by " in reference.lower()
    right = content == expected_content and _arrange(rows, ordered) == _arrange(expected_rows, ordered)
    return ExpertVerdict(right, alone=right and match[0] == reply.strip() and reply.strip().endswith(";"))


def _arrange(rows: Rows, ordered: bool) -> Sequence[Any]:
    return rows if ordered else sorted(map(repr, rows))
