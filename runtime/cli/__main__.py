"""The command line's entry point. A verb's module is imported when the verb is called, or listed with its help."""

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

MODULES = {
    "up": "up",
    "run": "up",
    "ask": "turns",
    "chat": "turns",
    "route": "turns",
    "trace": "turns",
    "replay": "replay",
    "asyncapi": "asyncapi",
    "doctor": "doctor",
    "models": "models",
    "dead": "dead",
    "services": "services",
    "dream": "dream",
    "router": "router",
    "memory": "memory",
    "adapters": "adapters",
    "knowbias": "knowbias",
    "bench": "bench",
}
"""The module of ``runtime.cli`` that has each verb or group of verbs, in the order of the help."""


class LazyGroup(TyperGroup):
    """The verbs of :data:`MODULES`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        placeholders: dict[str, Any] = dict.fromkeys(MODULES)
        self.commands = placeholders

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A verb or a group of verbs; None where there is none of that name."""
        if cmd_name in MODULES and self.commands[cmd_name] is None:
            self.commands[cmd_name] = _load_commands(MODULES[cmd_name])[cmd_name]
        return super().get_command(ctx, cmd_name)


def _load_commands(module_name: str) -> dict[str, Any]:
    """The verbs that a module has by itself, or its group of verbs under the module's name."""
    module = import_module(f"runtime.cli.{module_name}")
    loaded = typer.Typer(rich_markup_mode=None)
    if module_name == "bench":
        _hang_benches(module.app)
    if hasattr(module, "app"):
        loaded.add_typer(module.app, name=module_name)
    else:
        module.hang(loaded)
    return dict(typer.main.get_group(loaded).commands)


def _hang_benches(bench: typer.Typer) -> None:
    """Add the benches that have modules of their own."""
    for name in ("contests", "cognition", "dream", "growth", "latency", "fairness"):
        import_module(f"runtime.cli.{name}").hang(bench)


app = typer.Typer(
    name="kiki",
    cls=LazyGroup,
    help="micro-kiki: an event-driven agent runtime on NATS.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


@app.callback()
def kiki() -> None:
    """Nothing comes before a verb."""


if __name__ == "__main__":
    app(prog_name="kiki")
