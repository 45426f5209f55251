"""``kiki settings``: every setting with its type, its default and what it does, as a page of the documentation.

All of it is read from the code: fields and defaults from the settings' classes, the sentences from their docstrings.
"""

import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from runtime.agents import FACADE, all_agents, find_settings_class
from runtime.cli import command
from runtime.settings import OTHER_VARIABLES, Settings

INTRODUCTION = """\
# Settings

Written by `kiki settings` from the code; `make contract` writes it again.

`kiki.toml` in the working directory (or the file that `KIKI_CONFIG` names) is read first, the environment wins over
it, and an option of the command line over both. A name that is none of these is refused, wherever it stands.
A `.env` file is not read: what a shell, compose or systemd exports from it is. Every `[agents.NAME]` also takes
`external`, and that of an agent of your own `class` and `after`: [howto/write-an-agent.md](howto/write-an-agent.md).

| variable | what it is |
|---|---|
{variables}

## The runtime

| setting | variable | value | default | meaning |
|---|---|---|---|---|
{rows}
"""

AGENT = """
## {title}

{summary} In the file: `[agents.{name}]`; in the environment: {variable}.

{table}
"""

TABLE = """\
| setting | value | default | meaning |
|---|---|---|---|
{rows}
"""

_FIELD = re.compile(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", re.MULTILINE)
_ROLE = re.compile(r":\w+:`~?([^`]+)`")
_BOUNDS = (("ge", "≥ {}"), ("gt", "> {}"), ("le", "≤ {}"), ("lt", "< {}"), ("pattern", "matches `{}`"))
_KINDS = {
    "BoolType": "true or false",
    "CustomType": "path",
    "FloatType": "number",
    "IntType": "integer",
    "StrType": "text",
}
_LONGEST_TEXT = 40


def add_verbs(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(settings)


@command
def settings(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write here instead of printing.")] = None,
) -> None:
    """Write every setting with its default and what it does, as Markdown."""
    page = write_page()
    if output is None:
        sys.stdout.write(page)
    else:
        output.write_text(page, encoding="utf-8")


def write_page() -> str:
    """The page of all settings."""
    variables = "\n".join(f"| `{name}` | {meaning} |" for name, meaning in OTHER_VARIABLES.items())
    parts = [INTRODUCTION.format(variables=variables, rows="\n".join(_write_own_rows()))]
    parts += [_write_agent(name, find_settings_class(name)) for name in (FACADE, *all_agents())]
    return "".join(parts)


def read_meanings(kind: type[Any]) -> dict[str, str]:
    """The sentence of each attribute in the docstring of a class."""
    _, _, attributes = (inspect.getdoc(kind) or "").partition("Attributes:\n")
    return {name: _plain(" ".join(text.split())) for name, text in _FIELD.findall(attributes)}


def _write_own_rows() -> Iterator[str]:
    for name, field in Settings.model_fields.items():
        limits = {
            bound: getattr(part, bound) for part in field.metadata for bound, _ in _BOUNDS if hasattr(part, bound)
        }
        kind: Any = Annotated[field.annotation, msgspec.Meta(**limits)] if limits else field.annotation
        value = _name_type(msgspec.inspect.type_info(kind))
        default = (
            "a folder of the user's"
            if name == "data_dir"
            else _write_value(field.get_default(call_default_factory=True))
        )
        cells = [f"`{name}`", f"`KIKI_{name.upper()}`", value, default, _plain(field.description or "")]
        yield _write_row(*cells)


def _write_agent(name: str, kind: type[Any]) -> str:
    prefix = f"`KIKI_AGENTS__{name.upper()}__` and the setting in capitals"
    text = AGENT.format(
        title="The facade" if name == "facade" else f"`{name}`",
        summary=_plain(" ".join((inspect.getdoc(kind) or "").partition("\n\n")[0].split())),
        name=name,
        variable=prefix if name.isidentifier() else "not at all, since its name has a hyphen",
        table=TABLE.format(rows="\n".join(_write_rows(kind))).rstrip(),
    )
    for field, table in _find_tables(kind):
        rows = "\n".join(_write_rows(table))
        text += f"\n`[agents.{name}.{field}]`:\n\n{TABLE.format(rows=rows)}"
    return text


def _write_rows(kind: type[Any]) -> Iterator[str]:
    meanings = read_meanings(kind)
    info = msgspec.inspect.type_info(kind)
    assert isinstance(info, msgspec.inspect.StructType)
    for field in info.fields:
        yield _write_row(f"`{field.name}`", _name_type(field.type), _write_default(field), meanings.get(field.name, ""))


def _find_tables(kind: type[Any], *above: str) -> Iterator[tuple[str, type[Any]]]:
    """The tables inside a table, each under its path; ``NAME`` is for the reader to choose."""
    info = msgspec.inspect.type_info(kind)
    assert isinstance(info, msgspec.inspect.StructType)
    for field in info.fields:
        options = field.type.types if isinstance(field.type, msgspec.inspect.UnionType) else (field.type,)
        for option in options:
            names = (*above, field.name)
            if isinstance(option, msgspec.inspect.DictType):
                names, option = (*names, "NAME"), option.value_type
            if isinstance(option, msgspec.inspect.StructType):
                yield ".".join(names), option.cls
                yield from _find_tables(option.cls, *names)


def _name_type(kind: Any) -> str:
    match kind:
        case msgspec.inspect.UnionType(types=types):
            return " or ".join(_name_type(part) for part in types if not isinstance(part, msgspec.inspect.NoneType))
        case msgspec.inspect.LiteralType(values=values):
            return ", ".join(_write_value(value) for value in values)
        case msgspec.inspect.VarTupleType(item_type=item):
            return f"list of {_name_type(item)}"
        case msgspec.inspect.TupleType(item_types=items):
            return f"list of {len(items)}: {_name_type(items[0])}"
        case msgspec.inspect.DictType() | msgspec.inspect.StructType() | msgspec.inspect.AnyType():
            return "table"
    limits = [
        text.format(_shorten(limit)) for bound, text in _BOUNDS if (limit := getattr(kind, bound, None)) is not None
    ]
    return " ".join((_KINDS[type(kind).__name__], ", ".join(limits))).strip()


def _shorten(limit: Any) -> str:
    return f"{limit:,}" if isinstance(limit, int) else f"{limit:g}" if isinstance(limit, float) else str(limit)


def _write_default(field: msgspec.inspect.Field) -> str:
    if field.required:
        return "set by the runtime"
    factory = field.default_factory
    return _write_value(field.default if factory is msgspec.NODEFAULT else factory())


def _write_value(value: Any) -> str:
    """A value as ``kiki.toml`` has it; nothing for None."""
    if value is None:
        return "-"
    if isinstance(value, str) and len(value) > _LONGEST_TEXT:
        value = f"{value[:_LONGEST_TEXT]}…"
    return f"`{json.dumps(value, ensure_ascii=False)}`"


def _write_row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _plain(text: str) -> str:
    """A docstring's text in Markdown, as a sentence."""
    text = _ROLE.sub(r"`\1`", text).replace("``", "`").replace("<", "&lt;").rstrip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", ":")) or not text else ".")
