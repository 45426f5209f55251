"""The router as an agent: ``query.received`` -> ``query.routed``; the request ``route``."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
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
from agents.router.conversations import ConversationReader, Reading, user_texts
from agents.router.dialogue import Conversation, load_head
from agents.router.passages import LONG
from agents.router.scoring import OutputScores, Scorer
from agents.router.sessions import Sessions
from agents.router.settings import RouterSettings
from agents.router.turn_ids import TurnIds, refusal
from agents.shared.domains import load_taxonomy
from agents.shared.encoder import Floats
from bus import metrics
from bus.agent import Endpoint
from bus.connection import Bus, LiveMessage
from bus.handler import Delivery, Handler
from schemas.advisors import ADVISOR_PATTERN, AdviseRequest
from schemas.calls import EMBED, ROUTE
from schemas.codec import decode
from schemas.embedder import MAX_EMBED_TEXTS, EmbedReply, EmbedRequest
from schemas.errors import InvalidEvent, KikiError, SetupError, Unavailable
from schemas.events import QueryReceived, QueryRouted, failure
from schemas.findings import MAX_ADAPTERS, Advisory, DomainScore, Query, Route
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
        if wrong := [name for name in settings.advisors if not re.match(ADVISOR_PATTERN, name)]:
            raise SetupError(
                f"'{wrong[0]}' is no advisor's name: letters, digits, '_' and '-'.", param="agents.router.advisors"
            )
        self._settings = settings
        self._taxonomy = load_taxonomy()
        self._aliases: AliasConfig = load_config()
        self._reader: ConversationReader | None = None
        self._bus: Bus | None = None
        self._embed: Embed | None = None
        self._turn_ids = TurnIds()
        self._sessions = Sessions()
        self._turns = 0
        self._base_turns = 0

    @contextlib.asynccontextmanager
    async def open(self, bus: Bus) -> AsyncIterator[None]:
        """Load the weights and wait for an embedder; both it and the advisors are reached over ``bus``."""
        self._bus = bus

        async def embed_on_bus(request: EmbedRequest) -> EmbedReply:
            return await bus.request(EMBED, request, timeout=self._settings.embed_timeout)

        await self.load_weights(embed_on_bus)
        await _wait_for_embedder(embed_on_bus)
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(await bus.listen(bus.subjects.stage(QueryReceived.subject), self._refuse_taken))
            stack.push_async_callback(await bus.listen(bus.subjects.stage(QueryRouted.subject), self._note_routed))
            await self._sessions.read_back(bus)
            yield

    async def _note_routed(self, message: LiveMessage) -> None:
        """Other routers of this bus route turns of the same sessions, and each of them must know what runs there."""
        self._sessions.note_event(message.data)

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
        self._reader = await anyio.to_thread.run_sync(self._load_reader)
        self._embed = embed

    def _load_reader(self) -> ConversationReader:
        folder = self._settings.checkpoint
        scorer = Scorer(load_shipped() if folder is None else load_checkpoint(folder), self._taxonomy)
        # Scoring builds the word model's tables at its first text: do that now, not in the first turn.
        scorer.score(["ready"], np.zeros((1, scorer.checkpoint.classifier.width), dtype=np.float32))
        threshold = self._settings.threshold
        return ConversationReader(
            scorer,
            load_head(),
            self._taxonomy,
            threshold=scorer.checkpoint.meta.threshold if threshold is None else threshold,
        )

    def handlers(self) -> Sequence[Handler[Any]]:
        """Reads ``query.received``."""
        return [
            Handler(
                stage=STAGE, event=QueryReceived, handle=self._handle, concurrency=self._settings.concurrency, fair=True
            )
        ]

    def endpoints(self) -> Sequence[Endpoint]:
        """Answers ``route``."""
        return (Endpoint(ROUTE, self.route),)

    def status(self) -> StatusReply:
        """Ready once the weights are loaded. The embedder reports its own readiness."""
        meta = None if self._reader is None else self._reader.scorer.checkpoint.meta
        return StatusReply(
            agent=STAGE,
            ready=meta is not None,
            gauges={"turns": float(self._turns), "base_turns": float(self._base_turns)},
            info={} if meta is None else {"corpus": meta.corpus_sha256[:12], "outputs": str(len(meta.labels))},
        )

    async def route(self, request: RouteRequest) -> RouteReply:
        """The domains of prompts, or of a conversation's last message, by the router's own scores without advice."""
        if request.messages:
            readings = [(await self._read(user_texts(request.messages), Conversation()))[0]]
        else:
            readings = await self._read_each(request.prompts)
        threshold = self._threshold if request.threshold is None else request.threshold
        results = []
        for scores in (reading.scores for reading in readings):
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

    async def _read_each(self, prompts: Sequence[str]) -> list[Reading]:
        """Each prompt by itself; all are embedded together."""
        reader = self._require_reader()
        vectors, _ = await self._embed_texts(reader.texts_to_embed(prompts))
        return [reader.read((prompt,), vectors, Conversation()) for prompt in prompts]

    async def _read(self, texts: Sequence[str], earlier: Conversation) -> tuple[Reading, float]:
        """Read a user's messages, the last of which is routed; also the seconds of the embedder.

        ``earlier`` is what is known of the conversation before the first of them.
        """
        reader = self._require_reader()
        vectors, compute = await self._embed_texts(reader.texts_to_embed(texts))
        return reader.read(texts, vectors, earlier), compute

    async def _handle(self, event: QueryReceived, delivery: Delivery) -> QueryRouted | None:
        query = event.query
        if self._turn_ids.is_taken(event):
            return None  # its asker has been told
        alias = alias_of(query.model)
        if (earlier_event := await self._find_routed_event(event)) is not None:
            return earlier_event
        compute = 0.0
        if alias.adapters:
            reading, compute = await self._read(*self._conversation_of(event))
            self._sessions.note(event.envelope, reading.conversation)
            route = await self._choose_route(event, alias, reading)
        else:
            route = self._bare_route(query, alias)
        self._turns += 1
        self._base_turns += not route.adapters
        for name in [domain.name for domain in route.domains] or [BASE]:
            ROUTED.labels(name).inc()
        timing = delivery.timing(STAGE, compute=compute)
        return QueryRouted(envelope=event.envelope.next(STAGE), query=query, route=route, timings=(timing,))

    def _conversation_of(self, event: QueryReceived) -> tuple[tuple[str, ...], Conversation]:
        """The user's messages that are read, and what is known of the conversation before the first of them.

        A client that sends its new message alone, in a session, has its earlier messages here as what they led to.
        """
        texts = user_texts(event.query.messages)
        sends_history = any(message.role == "assistant" for message in event.query.messages) or len(texts) > 1
        return texts, Conversation() if sends_history else self._sessions.find(event.envelope)

    async def _find_routed_event(self, event: QueryReceived) -> QueryRouted | None:
        """The event that this turn has already, if any: advisors keep a state, so each is asked once for a turn."""
        if not self._settings.advisors or self._bus is None:
            return None
        return await self._bus.last(QueryRouted, event.envelope.turn_id)

    async def _embed_texts(self, texts: tuple[str, ...]) -> tuple[dict[str, Floats], float]:
        """The texts' unit vectors, and the embedder's seconds; their words are counted while it computes."""
        scorer, embed = self._require_scorer(), self._embed
        assert embed is not None, "load_weights sets it"

        async def count_words() -> None:
            await asyncio.sleep(0)  # let the request to the embedder leave first
            scorer.count_words(texts)

        async def embed_in_parts() -> tuple[dict[str, Floats], float]:
            vectors: dict[str, Floats] = {}
            compute = 0.0
            for part in _parts(texts):
                reply = await embed(EmbedRequest(texts=part))
                vectors |= zip(part, np.array(reply.vectors, dtype=np.float32), strict=True)
                compute += reply.compute
            return vectors, compute

        embedded, _ = await asyncio.gather(embed_in_parts(), count_words())
        return embedded

    def _bare_route(self, query: Query, alias: Alias) -> Route:
        """The route of an alias without adapters: no domains are scored."""
        level = selection.level_of(alias, query.level, first=None, cognition_domains=())
        plan = selection.plan_of(alias, query, level=level)
        return Route(domains=(), adapters=(), intent=alias.intent, plan=plan)

    async def _choose_route(self, event: QueryReceived, alias: Alias, reading: Reading) -> Route:
        query, config, scores, embedding = event.query, self._aliases, reading.scores, reading.embedding
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
            scale=alias.adapter_scale if query.adapter_scale is None else query.adapter_scale,
        )
        return Route(
            domains=tuple(domain for domain, _ in choices),
            adapters=adapters,
            intent=alias.intent,
            plan=selection.plan_of(alias, query, level=level, costly=first in config.cognition_domains),
            embedding=embedding,
            advisories=advisories,
            running=_running_domains(reading.conversation),
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
        return self._require_reader().threshold

    def _require_scorer(self) -> Scorer:
        return self._require_reader().scorer

    def _require_reader(self) -> ConversationReader:
        if self._reader is None:
            raise Unavailable("the router has not loaded its weights yet.")
        return self._reader


def _parts(texts: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The texts for one request each: short ones apart from long ones, because a pass is padded to its longest text."""
    for group in ([text for text in texts if len(text) <= LONG], [text for text in texts if len(text) > LONG]):
        for at in range(0, len(group), MAX_EMBED_TEXTS):
            yield tuple(group[at : at + MAX_EMBED_TEXTS])


def _running_domains(conversation: Conversation) -> tuple[DomainScore, ...]:
    """The niche domains of the conversation with their weights, best first."""
    ranked = sorted(conversation.running.items(), key=lambda pair: (-pair[1], pair[0]))
    return tuple(DomainScore(name=name, score=round(weight, selection.DIGITS)) for name, weight in ranked)


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
