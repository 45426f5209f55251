"""The command line's entry point. A verb's module is imported when the verb is called, or listed with its help."""

from importlib import import_module
from typing import Any

import typer
from typer.core import TyperGroup

MODULES = {
    "up": "runtime.cli.up",
    "run": "runtime.cli.up",
    "ask": "runtime.cli.turns",
    "chat": "runtime.cli.turns",
    "route": "runtime.cli.turns",
    "trace": "runtime.cli.turns",
    "replay": "runtime.cli.replay",
    "asyncapi": "runtime.cli.asyncapi",
    "openapi": "runtime.cli.openapi",
    "settings": "runtime.cli.settings",
    "train": "runtime.cli.train",
    "validate": "runtime.cli.validate",
    "doctor": "runtime.cli.doctor",
    "models": "runtime.cli.models",
    "dead": "runtime.cli.dead",
    "services": "runtime.cli.services",
    "broker": "runtime.cli.broker",
    "dream": "runtime.cli.dream",
    "router": "runtime.cli.router",
    "memory": "runtime.cli.memory",
    "adapters": "runtime.cli.adapters",
    "knowbias": "runtime.cli.knowbias",
    "soak": "runtime.cli.soak",
    "bench": "runtime.bench.commands",
}
"""Where each verb or group of verbs is, in the order of the help."""


class LazyGroup(TyperGroup):
    """The verbs of :data:`MODULES`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # Typer lists the names and suggests one of them for a typo; get_command() puts the commands in their place.
        placeholders: dict[str, Any] = dict.fromkeys(MODULES)
        self.commands = placeholders

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A verb or a group of verbs; None where there is none of that name."""
        if cmd_name in MODULES and self.commands[cmd_name] is None:
            self.commands[cmd_name] = _load_command(cmd_name)
        return super().get_command(ctx, cmd_name)


def _load_command(name: str) -> Any:
    """The command of that name: a verb that its module adds, or the module's whole group of verbs."""
    module = import_module(MODULES[name])
    loaded = typer.Typer(rich_markup_mode=None)
    if hasattr(module, "app"):
        loaded.add_typer(module.app, name=name)
    else:
        module.add_verbs(loaded)
    return typer.main.get_group(loaded).commands[name]


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
    """A callback without options: it makes Typer expect a verb."""


if __name__ == "__main__":
    app(prog_name="kiki")
