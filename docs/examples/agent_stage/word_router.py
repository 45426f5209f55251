"""A router of your own in the place of ours: by words of the question, without a model.

[agents.router] external = true in kiki.toml, 'kiki up', and beside it 'kiki run word_router:WordRouter'.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from bus.agent import BaseAgent
from bus.handler import Delivery, Handler
from schemas.events import QueryReceived, QueryRouted
from schemas.findings import AdapterUse, DomainScore, Level, Plan, Route

WORDS = {"sql": ("select", "table", "query"), "shell": ("bash", "command", "script")}


class WordRouter(BaseAgent):
    """Takes the first domain of which the question has a word; the base model answers anything else."""

    name = "router"

    class Settings(msgspec.Struct):
        """``[agents.router]``: the level at which all turns are answered."""

        level: Level = "fast"

    def __init__(self, settings: Settings) -> None:
        self.plan = Plan(level=settings.level, recall=True)

    def handlers(self) -> Sequence[Handler[Any]]:
        """Reads ``query.received``, as the consumer of ours."""
        return [Handler(stage="router", event=QueryReceived, handle=self.route, fair=True)]

    async def route(self, event: QueryReceived, _: Delivery) -> QueryRouted:
        """Choose the domain, its adapter and the plan."""
        words = set(event.query.text.lower().split())
        domains = [name for name, known in WORDS.items() if words & set(known)][:1]
        route = Route(
            domains=tuple(DomainScore(name=name, score=1.0) for name in domains),
            adapters=tuple(AdapterUse(name=name) for name in domains),
            intent=domains[0] if domains else "base",
            plan=self.plan,
        )
        return QueryRouted(envelope=event.envelope.next("router"), query=event.query, route=route)
