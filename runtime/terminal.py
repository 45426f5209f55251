"""What reaches a terminal: text of a model, a person or the bus must not steer it.

Control characters (of C0 but newline and tab, DEL, and of C1) move the cursor, change the title or rewrite what was
printed. They are left out wherever text is printed, and escaped where it is JSON.
"""

import re
import sys
from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """The text without control characters; newlines and tabs stay."""
    return _CONTROLS.sub("", text)


def escape_controls(json_text: str) -> str:
    """The same JSON, with the control characters escaped that JSON itself allows in a text."""
    return _CONTROLS.sub(lambda control: f"\\u{ord(control[0]):04x}", json_text)


def write_json_line(line: str) -> None:
    """Write a line of JSON to standard output."""
    sys.stdout.write(escape_controls(line) + "\n")


class TerminalConsole(Console):
    """A console that prints no control character but its own: colours and the movements of its progress bars."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """See :meth:`rich.console.Console.render`, which everything that is printed goes through."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))
