"""The router as an agent: ``query.received`` -> ``query.routed``; the request ``route``."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import anyio
import anyio.to_thread
import numpy as np
import structlog
from prometheus_client import Counter

from agents.router import selection
from agents.router.advice import ask_advisors
from agents.router.aliases import Alias, AliasConfig, alias_of, load_config
from agents.router.checkpoint import load_checkpoint, load_shipped
from agents.router.domains import load_taxonomy
from agents.router.scoring import OutputScores, Scorer
from agents.router.settings import RouterSettings
from agents.router.turn_ids import TurnIds, refusal
from agents.shared.encoder import Floats
from bus import metrics
from bus.agent import Endpoint
from bus.connection import Bus, LiveMessage
from bus.handler import Delivery, Handler
from schemas.advisors import ADVISORS, AdviseRequest
from schemas.codec import decode
from schemas.embedder import EmbedReply, EmbedRequest
from schemas.errors import InvalidEvent, KikiError, SetupError, Unavailable
from schemas.events import QueryReceived, QueryRouted, failure
from schemas.findings import MAX_ADAPTERS, Advisory, DomainScore, Query, Route, StageTiming
from schemas.router import RoutedDomain, RoutedPrompt, RouteReply, RouteRequest
from schemas.status import StatusReply

STAGE = "router"
POLL_SECONDS = 0.1
"""Seconds between two attempts of a starting router to reach an embedder."""

BASE = "base"
"""What is counted for a turn that no domain fits."""

ROUTED = Counter(
    "kiki_routed_domains", "Turns by each domain that they were routed to", ["domain"], registry=metrics.REGISTRY
)

Embed = Callable[[EmbedRequest], Awaitable[EmbedReply]]
"""Gives the unit vectors of texts."""

_log = structlog.get_logger("router")


class RouterAgent:
    """Chooses domains, adapters and the plan of every turn."""

    name = STAGE

    def __init__(self, settings: RouterSettings) -> None:
        if not 1 <= settings.max_adapters <= MAX_ADAPTERS:
            raise SetupError(f"max_adapters must be 1 to {MAX_ADAPTERS}.", param="agents.router.max_adapters")
        if unknown := sorted(set(settings.advisors) - set(ADVISORS)):
            raise SetupError(
                f"there is no advisor '{unknown[0]}': choose from {', '.join(ADVISORS)}.",
                param="agents.router.advisors",
            )
        self._settings = settings
        self._taxonomy = load_taxonomy()
        self._aliases: AliasConfig = load_config()
        self._scorer: Scorer | None = None
        self._bus: Bus | None = None
        self._embed: Embed | None = None
        self._turn_ids = TurnIds()
        self._turns = 0
        self._base_turns = 0

    @contextlib.asynccontextmanager
    async def open(self, bus: Bus) -> AsyncIterator[None]:
        """Load the weights and wait for an embedder; both it and the advisors are reached over ``bus``."""
        self._bus = bus

        async def embed_on_bus(request: EmbedRequest) -> EmbedReply:
            return await bus.request("embed", request, EmbedReply, timeout=self._settings.embed_timeout)

        await self.load_weights(embed_on_bus)
        await _wait_for_embedder(embed_on_bus)
        stop_listening = await bus.listen(bus.subjects.stage(QueryReceived.subject), self._refuse_taken)
        try:
            yield
        finally:
            await stop_listening()

    async def _refuse_taken(self, message: LiveMessage) -> None:
        """Tell who asked under a turn id that is taken. The broker drops such a question, or no stage works on it."""
        assert self._bus is not None
        try:
            event = decode(QueryReceived, message.data)
        except InvalidEvent:
            return  # the handler refuses it
        if self._turn_ids.is_taken(event):
            await self._bus.announce(failure(event.envelope, STAGE, refusal(event)))

    async def load_weights(self, embed: Embed) -> None:
        """Load the weights, ready for :meth:`route` with the vectors that ``embed`` gives.

        Raises:
            SetupError: the checkpoint cannot be loaded.
        """
        self._scorer = await anyio.to_thread.run_sync(self._load_scorer)
        self._embed = embed

    def _load_scorer(self) -> Scorer:
        folder = self._settings.checkpoint
        scorer = Scorer(load_shipped() if folder is None else load_checkpoint(folder), self._taxonomy)
        # Scoring builds the word model's tables at its first text: do that now, not in the first turn.
        scorer.score(["ready"], np.zeros((1, scorer.checkpoint.classifier.width), dtype=np.float32))
        return scorer

    def handlers(self) -> Sequence[Handler[Any]]:
        """Reads ``query.received``."""
        return [Handler(stage=STAGE, event=QueryReceived, handle=self._handle, concurrency=self._settings.concurrency)]

    def endpoints(self) -> Sequence[Endpoint]:
        """Answers ``route``."""
        return (Endpoint(verb="route", request=RouteRequest, handle=self.route),)

    def status(self) -> StatusReply:
        """Ready once the weights are loaded. The embedder reports its own readiness."""
        meta = None if self._scorer is None else self._scorer.checkpoint.meta
        return StatusReply(
            agent=STAGE,
            ready=meta is not None,
            gauges={"turns": float(self._turns), "base_turns": float(self._base_turns)},
            info={} if meta is None else {"corpus": meta.corpus_sha256[:12], "outputs": str(len(meta.labels))},
        )

    async def route(self, request: RouteRequest) -> RouteReply:
        """The domains of prompts by the router's own scores: advisors are only asked about turns."""
        scorer = self._require_scorer()
        embedded = await self._embed_texts(request.prompts)
        threshold = self._threshold if request.threshold is None else request.threshold
        results = []
        for scores in scorer.score(request.prompts, _matrix(embedded)):
            domains = selection.select_outputs(scores.outputs, threshold=threshold, top_k=request.top_k)
            results.append(
                RoutedPrompt(
                    domains=tuple(
                        RoutedDomain(name=domain.name, score=domain.score, niche=scores.niche(domain.name))
                        for domain in domains
                    )
                )
            )
        return RouteReply(results=tuple(results))

    async def _handle(self, event: QueryReceived, delivery: Delivery) -> QueryRouted | None:
        query = event.query
        if self._turn_ids.is_taken(event):
            return None  # its asker has been told
        alias = alias_of(query.model)
        if (earlier_event := await self._find_routed_event(event)) is not None:
            return earlier_event
        embedded = await self._embed_texts((query.text,)) if alias.adapters else None
        route = self._bare_route(query, alias) if embedded is None else await self._choose_route(event, alias, embedded)
        self._turns += 1
        self._base_turns += not route.adapters
        for name in [domain.name for domain in route.domains] or [BASE]:
            ROUTED.labels(name).inc()
        timing = StageTiming(
            stage=STAGE,
            started_at=delivery.received_at,
            finished_at=time.time(),
            compute=0.0 if embedded is None else embedded.compute,
            attempt=delivery.attempt,
        )
        return QueryRouted(envelope=event.envelope.next(STAGE), query=query, route=route, timings=(timing,))

    async def _find_routed_event(self, event: QueryReceived) -> QueryRouted | None:
        """The event that this turn has already, if any: advisors keep a state, so each is asked once for a turn."""
        if not self._settings.advisors or self._bus is None:
            return None
        return await self._bus.last(QueryRouted, event.envelope.turn_id)

    async def _embed_texts(self, texts: tuple[str, ...]) -> EmbedReply:
        """The texts' vectors; their words are counted while the embedder computes."""
        scorer, embed = self._require_scorer(), self._embed
        assert embed is not None, "load_weights sets it"

        async def count_words() -> None:
            await asyncio.sleep(0)  # let the request to the embedder leave first
            scorer.count_words(texts)

        reply, _ = await asyncio.gather(embed(EmbedRequest(texts=texts)), count_words())
        return reply

    def _bare_route(self, query: Query, alias: Alias) -> Route:
        """The route of an alias without adapters: no domains are scored."""
        level = selection.level_of(alias, query.level, first=None, cognition_domains=())
        plan = selection.plan_of(alias, query, level=level)
        return Route(domains=(), adapters=(), intent=alias.intent, plan=plan)

    async def _choose_route(self, event: QueryReceived, alias: Alias, embedded: EmbedReply) -> Route:
        query, config, embedding = event.query, self._aliases, embedded.vectors[0]
        scores = self._require_scorer().score([query.text], _matrix(embedded))[0]
        advisories: tuple[Advisory, ...] = ()
        if self._settings.advisors and not alias.niche:
            scores, advisories = await self._apply_advice(event, scores, embedding)
        choices = self._force_niche(alias.niche, scores) if alias.niche else self._choose_domains(alias, scores)
        niches = [(niche, domain.score) for domain, niche in choices]
        first = niches[0][0] if niches else None
        level = selection.level_of(alias, query.level, first=first, cognition_domains=config.cognition_domains)
        adapters = selection.adapters_of(
            [(alias.niche, 1.0)] if alias.niche else niches,
            base_domains=() if alias.niche else config.base_domains,
            min_share=self._settings.min_share,
            limit=self._settings.max_adapters,
        )
        return Route(
            domains=tuple(domain for domain, _ in choices),
            adapters=adapters,
            intent=alias.intent,
            plan=selection.plan_of(alias, query, level=level, costly=first in config.cognition_domains),
            embedding=embedding,
            advisories=advisories,
        )

    async def _apply_advice(
        self, event: QueryReceived, scores: OutputScores, embedding: tuple[float, ...]
    ) -> tuple[OutputScores, tuple[Advisory, ...]]:
        assert self._bus is not None, "a turn comes over the bus"
        request = AdviseRequest(
            turn_id=event.envelope.turn_id,
            text=event.query.text,
            embedding=embedding,
            scores=scores.outputs,
        )
        outputs, advisories = await ask_advisors(self._bus, self._settings.advisors, request, self._taxonomy)
        return OutputScores(outputs, scores.inside), advisories

    def _force_niche(self, niche: str, scores: OutputScores) -> list[tuple[DomainScore, str]]:
        """The one niche domain that the alias names, with its output's score, whatever that is."""
        output = self._taxonomy.output_of(niche)
        score = round(scores.outputs.get(output, 0.0), selection.DIGITS)
        return [(DomainScore(name=output, score=score), niche)]

    def _choose_domains(self, alias: Alias, scores: OutputScores) -> list[tuple[DomainScore, str]]:
        """The outputs that pass the gate, each with the niche domain that is meant."""
        allowed = {self._taxonomy.output_of(domain) for domain in alias.domains}
        domains = selection.select_outputs(
            scores.outputs, threshold=self._threshold, top_k=self._settings.max_adapters, allowed=allowed
        )
        return [(output, scores.niche(output.name, allowed=alias.domains)) for output in domains]

    @property
    def _threshold(self) -> float:
        threshold = self._settings.threshold
        return self._require_scorer().checkpoint.meta.threshold if threshold is None else threshold

    def _require_scorer(self) -> Scorer:
        if self._scorer is None:
            raise Unavailable("the router has not loaded its weights yet.")
        return self._scorer


def _matrix(embedded: EmbedReply) -> Floats:
    """The vectors as ``[n, width]``."""
    return np.array(embedded.vectors, dtype=np.float32)


async def _wait_for_embedder(embed: Embed) -> None:
    """Wait until an embedder answers: a turn that came earlier would use up its deliveries in vain.

    Raises:
        KikiError: the embedder refuses with an error that is not retryable.
    """
    is_logged = False
    while True:
        try:
            await embed(EmbedRequest(texts=("ready",)))
        except KikiError as error:
            if not error.retryable:
                raise
            if not is_logged:
                _log.info("router waiting for an embedder", error=error.message)
                is_logged = True
            await anyio.sleep(POLL_SECONDS)
        else:
            return
