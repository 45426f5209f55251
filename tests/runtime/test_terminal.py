"""Text of a model, a person or the bus is printed as text: nothing in it steers the terminal."""

import io
import json
import sys
import time
import unicodedata
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from bus.connection import Bus
from runtime.terminal import TerminalConsole, escape_controls, printable
from schemas.codec import encode
from schemas.status import DeadLetter

STEERING = "\x1b]0;title\x07\x1b[2J\x9b31mred\r\x08\x7f[/bold]:smile:"
LEFT = "]0;title[2J31mred[/bold]:smile:"


def print_on_terminal(thing: RenderableType, **options: Any) -> str:
    file = io.StringIO()
    console = TerminalConsole(file=file, force_terminal=True, color_system=None, width=200, markup=False, emoji=False)
    console.print(thing, **options)
    return file.getvalue()


def table_of(text: str) -> Table:
    table = Table("text", box=None)
    table.add_row(text)
    return table


@pytest.mark.parametrize(
    "thing",
    [STEERING, Text(STEERING), table_of(STEERING), Panel(STEERING), Group(Text(STEERING), table_of(STEERING))],
    ids=["str", "Text", "Table", "Panel", "Group"],
)
def test_nothing_printed_steers_the_terminal(thing: RenderableType) -> None:
    shown = print_on_terminal(thing)
    assert LEFT in shown
    assert not set(shown) & set("\x1b\x07\x9b\r\x08\x7f")


def test_a_streamed_piece_steers_nothing_and_colours_stay() -> None:
    file = io.StringIO()
    console = TerminalConsole(file=file, force_terminal=True, color_system="standard", width=100)
    console.out("a\x1b", end="", highlight=False)
    console.out("[31mb   c\n", end="", highlight=False)
    console.print("red", style="red")
    assert file.getvalue() == "a[31mb   c\n\x1b[31mred\x1b[0m\n"


@given(st.text())
def test_the_text_is_the_same_but_for_controls(text: str) -> None:
    shown = printable(text)
    assert [character for character in text if character in "\n\t" or character.isprintable()] == [
        character for character in shown if character in "\n\t" or character.isprintable()
    ]
    assert [character for character in shown if unicodedata.category(character) == "Cc"] == [
        character for character in text if character in "\n\t"
    ]
    assert json.loads(escape_controls(json.dumps(text, ensure_ascii=False))) == text


@pytest.mark.anyio
async def test_a_dead_letter_is_listed_and_shown_as_text(bus: Bus, nats_url: str) -> None:
    letter = DeadLetter(
        subject="kiki.query.received.x",
        stream="TURNS",
        consumer="router",
        reason=f"malformed: {STEERING}",
        deliveries=1,
        headers={"traceparent": STEERING},
        payload=STEERING.encode(),
        failed_at=time.time(),
    )
    await bus.js.publish(bus.subjects.dead("router", "tests"), encode(letter))
    for verb in (["ls"], ["show", "1"]):
        command = [sys.executable, "-m", "runtime", "dead", *verb, "--nats", nats_url]
        result = await anyio.run_process(command, env={"COLUMNS": "300"}, check=True)
        shown = result.stdout.decode()
        assert LEFT in shown
        assert not set(shown) & set("\x1b\x07\x9b\r\x08\x7f")
