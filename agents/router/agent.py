"""The router as an agent: ``query.received`` -> ``query.routed``; the services ``embed``, ``compare`` and ``route``."""

import contextlib
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import anyio
import anyio.to_thread
import numpy as np

from agents.router import selection
from agents.router.advice import ask_advisors
from agents.router.aliases import Alias, AliasConfig, alias_of, load_config
from agents.router.checkpoint import load_checkpoint, load_shipped
from agents.router.classifier import Floats
from agents.router.domains import load_taxonomy
from agents.router.embedder import Embedder, Embeddings
from agents.router.scoring import OutputScores, Scorer
from agents.router.settings import RouterSettings
from agents.shared.similarity import answer_texts, texts_to_embed
from bus.agent import Endpoint
from bus.connection import Bus, LiveMessage
from bus.handler import Delivery, Handler
from schemas.advisors import ADVISORS, AdviseRequest
from schemas.codec import decode
from schemas.embedder import CompareReply, CompareRequest, EmbedReply, EmbedRequest
from schemas.errors import SetupError, Unavailable
from schemas.events import InferDone, QueryReceived, QueryRouted
from schemas.findings import MAX_ADAPTERS, Advisory, DomainScore, Query, Route, StageTiming
from schemas.router import RoutedDomain, RoutedPrompt, RouteReply, RouteRequest
from schemas.status import StatusReply

STAGE = "router"
EMBEDDING_DIGITS = 6
"""Decimals of an embedding that travels: a few parts in a million of a cosine, and half the bytes."""


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
        self._embedder = Embedder(
            settings.embedder,
            batch_wait=settings.batch_wait,
            batch_size=settings.batch_size,
            cache_size=settings.cache_size,
            max_tokens=settings.max_tokens,
            threads=settings.threads,
        )
        self._turns = 0
        self._base_turns = 0

    @contextlib.asynccontextmanager
    async def open(self, bus: Bus) -> AsyncIterator[None]:
        """Load the embedder and the weights as :meth:`load_models` does; the bus is where advisors are asked."""
        self._bus = bus
        async with self.load_models():
            if self._settings.ahead:
                await bus.listen(bus.subjects.stage(InferDone.subject), self._embed_ahead, queue="router-ahead")
            yield

    @contextlib.asynccontextmanager
    async def load_models(self) -> AsyncIterator[None]:
        """Load the models, ready for :meth:`route` without a bus; the embedder stops at the end.

        Raises:
            SetupError: the embedder or the checkpoint cannot be loaded.
        """
        self._scorer = await anyio.to_thread.run_sync(self._load_scorer)
        try:
            await anyio.to_thread.run_sync(self._embedder.start)
            yield
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(self._embedder.stop)

    def _load_scorer(self) -> Scorer:
        folder = self._settings.checkpoint
        scorer = Scorer(load_shipped() if folder is None else load_checkpoint(folder), self._taxonomy)
        # The words' tables are built when the first text is read: here, not in the first turn.
        scorer.score(["ready"], np.zeros((1, scorer.checkpoint.classifier.width), dtype=np.float32))
        return scorer

    def handlers(self) -> Sequence[Handler[Any]]:
        """Reads ``query.received``."""
        return [Handler(stage=STAGE, event=QueryReceived, handle=self._handle, concurrency=self._settings.concurrency)]

    def endpoints(self) -> Sequence[Endpoint]:
        """Answers ``embed``, ``compare`` and ``route``."""
        return (
            Endpoint(verb="embed", request=EmbedRequest, handle=self.embed),
            Endpoint(verb="compare", request=CompareRequest, handle=self.compare),
            Endpoint(verb="route", request=RouteRequest, handle=self.route),
        )

    def status(self) -> StatusReply:
        """Ready while the embedder's thread lives."""
        embedder = self._embedder
        gauges = {
            "turns": self._turns,
            "base_turns": self._base_turns,
            "embed_batches": embedder.batches,
            "embedded_texts": embedder.embedded_texts,
            "embed_cache_hits": embedder.hits,
            "embed_queue": embedder.waiting,
            "embed_seconds": embedder.compute,
        }
        meta = None if self._scorer is None else self._scorer.checkpoint.meta
        return StatusReply(
            agent=STAGE,
            ready=embedder.alive and meta is not None,
            gauges={name: float(value) for name, value in gauges.items()},
            info={} if meta is None else {"corpus": meta.corpus_sha256[:12], "outputs": str(len(meta.labels))},
        )

    async def embed(self, request: EmbedRequest) -> EmbedReply:
        """Unit vectors of texts."""
        embeddings = await self._embedder.embed(request.texts)
        return EmbedReply(
            vectors=tuple(wire_vector(vector) for vector in embeddings.vectors), compute=embeddings.compute
        )

    async def compare(self, request: CompareRequest) -> CompareReply:
        """The cosines of each two texts: a few numbers, where their vectors would be thousands."""
        embeddings = await self._embedder.embed(request.texts)
        cosines = np.clip(embeddings.vectors @ embeddings.vectors.T, -1.0, 1.0)
        return CompareReply(
            cosines=tuple(wire_vector(row) for row in cosines), compute=embeddings.compute, began_at=embeddings.began_at
        )

    async def _embed_ahead(self, message: LiveMessage) -> None:
        """Embed a turn's candidates while they travel to the agent that compares them; nothing is acknowledged."""
        event = decode(InferDone, message.data)
        if event.route.plan.negotiate:
            self._embedder.embed_ahead(
                texts_to_embed(answer_texts(event.inference.candidates), question=event.query.text)
            )

    async def route(self, request: RouteRequest) -> RouteReply:
        """The domains of prompts, by the router alone: advisors are asked about turns only."""
        scorer = self._require_scorer()
        embeddings = await self._embed_texts(request.prompts)
        threshold = self._threshold if request.threshold is None else request.threshold
        results = []
        for scores in scorer.score(request.prompts, embeddings.vectors):
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

    async def _handle(self, event: QueryReceived, delivery: Delivery) -> QueryRouted:
        query = event.query
        alias = alias_of(query.model)
        if (earlier_event := await self._find_routed_event(event)) is not None:
            return earlier_event
        embeddings = await self._embed_texts([query.text]) if alias.adapters else None
        route = (
            self._bare_route(query, alias) if embeddings is None else await self._choose_route(event, alias, embeddings)
        )
        self._turns += 1
        self._base_turns += not route.adapters
        timing = StageTiming(
            stage=STAGE,
            started_at=delivery.received_at,
            finished_at=time.time(),
            compute=0.0 if embeddings is None else embeddings.compute,
            attempt=delivery.attempt,
        )
        return QueryRouted(envelope=event.envelope.next(STAGE), query=query, route=route, timings=(timing,))

    async def _find_routed_event(self, event: QueryReceived) -> QueryRouted | None:
        """The route that this turn has already, if any: an advisor's state may have changed, so it is asked once."""
        if not self._settings.advisors or self._bus is None:
            return None
        return await self._bus.last(QueryRouted, event.envelope.turn_id)

    async def _embed_texts(self, texts: Sequence[str]) -> Embeddings:
        """The texts' vectors; their words are counted while the embedder computes."""
        scorer = self._require_scorer()
        pending = self._embedder.embed(texts)
        scorer.count_words(texts)
        return await pending

    def _bare_route(self, query: Query, alias: Alias) -> Route:
        level = selection.level_of(alias, query.level, first=None, cognition_domains=())
        plan = selection.plan_of(alias, query, level=level)
        return Route(domains=(), adapters=(), intent=alias.intent, plan=plan)

    async def _choose_route(self, event: QueryReceived, alias: Alias, embeddings: Embeddings) -> Route:
        query, config, vector = event.query, self._aliases, embeddings.vectors[0]
        scores = self._require_scorer().score([query.text], embeddings.vectors)[0]
        advisories: tuple[Advisory, ...] = ()
        if self._settings.advisors and not alias.niche:
            scores, advisories = await self._apply_advice(event, scores, vector)
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
            embedding=wire_vector(vector),
            advisories=advisories,
        )

    async def _apply_advice(
        self, event: QueryReceived, scores: OutputScores, vector: Floats
    ) -> tuple[OutputScores, tuple[Advisory, ...]]:
        assert self._bus is not None, "a turn comes over the bus"
        request = AdviseRequest(
            turn_id=event.envelope.turn_id,
            text=event.query.text,
            embedding=wire_vector(vector),
            scores=scores.outputs,
        )
        outputs, advisories = await ask_advisors(self._bus, self._settings.advisors, request, self._taxonomy)
        return OutputScores(outputs, scores.inside), advisories

    def _force_niche(self, niche: str, scores: OutputScores) -> list[tuple[DomainScore, str]]:
        output = self._taxonomy.output_of(niche)
        score = round(scores.outputs.get(output, 0.0), selection.DIGITS)
        return [(DomainScore(name=output, score=score), niche)]

    def _choose_domains(self, alias: Alias, scores: OutputScores) -> list[tuple[DomainScore, str]]:
        """The gated outputs, each with the niche domain that is meant inside it."""
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


def wire_vector(vector: Floats) -> tuple[float, ...]:
    """An embedding as it travels in events."""
    numbers: list[float] = np.round(vector.astype(np.float64), EMBEDDING_DIGITS).tolist()
    return tuple(numbers)
