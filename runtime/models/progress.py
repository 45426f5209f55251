"""What a person sees while a model is fetched and converted."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import TaskID

ProgressReport = Callable[[str, int, int], None]
"""``report(step, done, total)``: the bytes of a step. Called often; a step ends when ``done`` reaches ``total``."""


ByteReport = Callable[[int], None]
"""``report(done)``: the bytes of one file of several."""


def shift_report(report: ProgressReport, step: str, before: int, total: int) -> ByteReport:
    """A report for one file of a step, ``before`` bytes of which are done."""

    def report_file(done: int) -> None:
        report(step, before + done, total)

    return report_file


def report_nothing(step: str, done: int, total: int) -> None:
    """Report to nobody."""


@contextmanager
def show_progress(*, console: "Console | None" = None) -> Iterator[ProgressReport]:
    """A progress bar for each step, on ``console`` or else on standard error."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console or Console(stderr=True)) as bars:
        tasks: dict[str, TaskID] = {}

        def report(step: str, done: int, total: int) -> None:
            if step not in tasks:
                tasks[step] = bars.add_task(step, total=total)
            bars.update(tasks[step], completed=done, total=total)

        yield report
