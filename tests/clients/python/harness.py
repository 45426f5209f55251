"""What the Python programs share: where the runtime is, and the report of their checks on standard output.

``python PROGRAM.py NAME ...`` runs only the checks of those names.
"""

import asyncio
import inspect
import json
import os
import sys
import time
import traceback
import urllib.request
from collections.abc import Callable
from typing import Any

HOST = os.environ["RUNTIME_URL"]
URL = f"{HOST}/v1"
KEY = os.environ["RUNTIME_KEY"]
DEFAULT, FAST, BASE = "micro-kiki", "micro-kiki-fast", "micro-kiki-base"
EMBEDDER = "all-mpnet-base-v2"
QUESTION = "What is the capital of France?"
STORY = "Write a long story about a village by a river."
TOO_LONG = "north south east west " * 2500
"""Some 10,000 tokens, of which the small model reads 8,192."""

_report: dict[str, str | None] = {}


def check(name: str) -> Callable[[Callable[[], Any]], None]:
    """Run the function at once and note under ``name`` what went wrong, or None."""

    def run(function: Callable[[], Any]) -> None:
        if len(sys.argv) > 1 and name not in sys.argv[1:]:
            return
        started = time.monotonic()
        try:
            if inspect.iscoroutinefunction(function):
                asyncio.run(function())
            else:
                function()
            _report[name] = None
        except BaseException as error:
            _report[name] = describe(error)
        print(f"{time.monotonic() - started:6.2f} s  {name}: {_report[name] or 'held'}", file=sys.stderr, flush=True)

    return run


def describe(error: BaseException) -> str:
    """The error, and the line of the program that raised it."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == sys.argv[0]]
    where = f" at line {frames[-1].lineno}: {frames[-1].line}" if frames else ""
    return f"{type(error).__name__}: {str(error)[:700]}{where}"


def finish() -> None:
    """Print the report."""
    print(json.dumps(_report))


def expect(kind: type[BaseException], call: Callable[[], Any]) -> Any:
    """The error of that kind which the call raises."""
    try:
        outcome = call()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__}: {outcome!r}"[:700])


def cancel_turn() -> None:
    """Cancel the newest turn, as an operator on the bus can: its stream ends in an error."""
    with urllib.request.urlopen(urllib.request.Request(os.environ["CANCEL_URL"], method="POST"), timeout=10) as reply:
        reply.read()


def wait_until_idle(seconds: float = 5.0) -> None:
    """Wait until no turn is in flight; an AssertionError when one still is after ``seconds``."""
    end = time.monotonic() + seconds
    while (running := _count_turns()) and time.monotonic() < end:
        time.sleep(0.1)
    assert running == 0, f"{running} turns still run {seconds} s later"


def _count_turns() -> int:
    with urllib.request.urlopen(f"{HOST}/health", timeout=10) as reply:
        return int(json.loads(reply.read())["turns_in_flight"])
