"""``kiki bench``: the verbs, put together."""

import typer

from runtime.bench.bias import bias
from runtime.bench.cognition import cognition
from runtime.bench.everyday import everyday
from runtime.bench.exchange import exchange
from runtime.bench.experts.experts import experts
from runtime.bench.fidelity import fidelity
from runtime.bench.locomo import locomo
from runtime.bench.memory.multilingual import multilingual
from runtime.bench.memory.rebuild import rebuild
from runtime.bench.memory.recall import recall
from runtime.bench.memory.recall_harm import recall_harm
from runtime.bench.memory.superseding import superseding
from runtime.bench.overhead import overhead
from runtime.bench.record.history import import_rate
from runtime.bench.record.replay import replay
from runtime.bench.record.writes import writes
from runtime.bench.router import router
from runtime.bench.votes import votes
from runtime.bench.worker import worker

app = typer.Typer(help="Measure. Each figure comes with the command that made it.", no_args_is_help=True)
for verb in (
    overhead,
    worker,
    fidelity,
    experts,
    cognition,
    everyday,
    votes,
    bias,
    recall,
    recall_harm,
    rebuild,
    writes,
    replay,
    router,
    exchange,
    locomo,
    superseding,
    multilingual,
):
    app.command()(verb)
app.command(name="import")(import_rate)
