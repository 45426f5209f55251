"""The command line's entry point: every group of verbs, hung on one application."""

import typer

from runtime.bench import commands as bench
from runtime.cli import (
    adapters,
    asyncapi,
    dead,
    doctor,
    dream,
    knowbias,
    memory,
    models,
    replay,
    router,
    services,
    turns,
    up,
)

app = typer.Typer(
    name="kiki",
    help="micro-kiki: an event-driven agent runtime on NATS.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for module in (up, turns, replay, asyncapi, doctor):
    module.hang(app)
app.add_typer(models.app, name="models")
app.add_typer(dead.app, name="dead")
app.add_typer(services.app, name="services")
app.add_typer(dream.app, name="dream")
app.add_typer(router.app, name="router")
app.add_typer(memory.app, name="memory")
app.add_typer(adapters.app, name="adapters")
app.add_typer(knowbias.app, name="knowbias")
app.add_typer(bench.app, name="bench")

if __name__ == "__main__":
    app(prog_name="kiki")
