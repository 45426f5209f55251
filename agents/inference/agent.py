"""The agent around the engine: turns and jobs in, tokens and candidates out."""

import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, get_args
from zoneinfo import ZoneInfo

import anyio
import msgspec

from agents.inference import adapter_events, panel
from agents.inference.candidates import select_usable
from agents.inference.crash_journal import Quarantine
from agents.inference.engine import AdapterVerbs, Engine
from agents.inference.prompt import own_messages, shorten_prompt, with_recall
from agents.inference.requests import Acceptance, DecodingOutcome, OnAcceptance, OnPiece, Request
from agents.inference.settings import InferenceSettings
from agents.inference.text import Piece
from agents.shared.workers import name_worker
from bus.agent import Endpoint
from bus.connection import Bus, LiveMessage
from bus.handler import Delivery, Handler
from bus.metrics import count_degraded
from bus.topology import ADAPTERS, JOBS
from schemas.adapters import AdapterInfo, AdapterListReply, AdapterListRequest, AdapterPublished, AdapterRequest
from schemas.calls import ADAPTER_VERBS, ADAPTERS_LS, COUNT
from schemas.chat import Usage
from schemas.codec import decode
from schemas.dream import DreamSwapped
from schemas.errors import DeadlineExceeded, InvalidInput, KikiError, SetupError
from schemas.events import EpisodeForgotten, Event, InferBegun, InferDone, InferToken, QueryRouted, RecallDone
from schemas.findings import AdapterUse, Inference, Level
from schemas.jobs import LANES, Job, JobResult, Lane
from schemas.status import StatusReply
from schemas.tokens import CountReply, CountRequest

LEVELS: tuple[Level, ...] = get_args(Level)

FINISH_SHARE = 0.2
"""Share of the time that the worker has for a turn that it leaves at most to the stages behind it."""


class InferenceAgent:
    """Decodes the candidates of a turn and answers the other agents' jobs."""

    name = "inference"

    def __init__(self, settings: InferenceSettings) -> None:
        self.settings = settings
        self._zone = ZoneInfo(settings.zone) if settings.zone is not None else None
        self.worker = name_worker()
        self._engine: Engine
        self._verbs: AdapterVerbs | None
        self._quarantine: Quarantine
        self._bus: Bus

    @contextlib.asynccontextmanager
    async def open(self, bus: Bus) -> AsyncIterator[None]:
        """Load the model and decode a token; ends with an error when the model's thread ends with one.

        Raises:
            SetupError: the model or the adapters folder cannot be used.
        """
        journal = self.settings.journal if self.settings.engine == "mlx" else None  # an upstream is another process
        self._quarantine = Quarantine(journal, is_well=lambda: self._engine.healthy)
        self._bus, self._engine = bus, _make_engine(self.settings)
        await self._engine.start()
        self._verbs = self._engine.consolidation(bus, self.worker)
        await bus.listen(bus.subjects.stage(EpisodeForgotten.subject), self._forget)
        if self._verbs is not None and self.settings.adapters is not None:
            await bus.listen(bus.subjects.stage(DreamSwapped.subject), self._follow_swaps)
            await self._follow_swaps()
        if self._engine.prefetches:
            await bus.listen(bus.subjects.stage(QueryRouted.subject), self._prefetch, queue="inference-prefetch")
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._engine.watch)
                if (adapter_watch := self._engine.make_watch(bus)) is not None:
                    tasks.start_soon(adapter_watch.run)
                yield
                tasks.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                await self._engine.stop()

    def handlers(self) -> Sequence[Handler[Any]]:
        """Turns, published adapters, and one consumer a lane of jobs."""
        return (
            Handler(
                stage="inference",
                event=RecallDone,
                handle=self.infer,
                concurrency=self.settings.max_concurrent,
                fair=True,
                shared=True,
            ),
            Handler(
                stage="inference-adapters",
                event=AdapterPublished,
                handle=self.adopt,
                stream=ADAPTERS,
                concurrency=1,
                until_deadline=False,
            ),
            *(self._lane_handler(lane) for lane in LANES),
        )

    def endpoints(self) -> Sequence[Endpoint]:
        """Counting the tokens of a prompt, and the administrator's verbs for the adapters; each of these also under the
        name of this worker, where no other one answers."""

        async def administer(verb: str, request: AdapterRequest) -> AdapterInfo:
            info = await adapter_events.administer_adapter(self._bus, self._engine, verb, request)
            return msgspec.structs.replace(info, worker=self.worker)

        async def list_adapters(_: AdapterListRequest) -> AdapterListReply:
            reply = await self._engine.adapters()
            infos = tuple(msgspec.structs.replace(info, worker=self.worker) for info in reply.adapters)
            return msgspec.structs.replace(reply, adapters=infos, worker=self.worker)

        async def count(request: CountRequest) -> CountReply:
            tokens = await self._engine.count_tokens(request.messages, request.tooling, thinking=request.thinking)
            return CountReply(tokens=tokens)

        verbs = [
            Endpoint(ADAPTERS_LS, list_adapters),
            *(Endpoint(service, partial(administer, verb)) for verb, service in ADAPTER_VERBS.items()),
        ]
        return (
            Endpoint(COUNT, count),
            *verbs,
            *(Endpoint(endpoint.service.at(self.worker), endpoint.handle) for endpoint in verbs),
            *(self._verbs.endpoints() if self._verbs is not None else ()),
        )

    def status(self) -> StatusReply:
        """Ready while the engine can answer."""
        engine = self._engine
        reason = engine.info.get("upstream_error", "the model's thread has ended or makes no steps")
        return StatusReply(
            agent=self.name,
            ready=engine.healthy,
            detail="" if engine.healthy else reason,
            gauges=engine.gauges,
            info={
                "worker": self.worker,
                "model": self.settings.model_name,
                "model_digest": self.settings.model_digest,
                **engine.info,
            },
        )

    async def infer(self, event: RecallDone, delivery: Delivery) -> InferDone:
        """Decode all candidates of a turn; if the plan says so, candidate 0's text is signalled while it is decoded."""
        async with self._quarantine.hold(event.envelope.turn_id):
            return await self._infer(event, delivery)

    async def _infer(self, event: RecallDone, delivery: Delivery) -> InferDone:
        outcome = await self._decode_candidates(event, delivery)
        if outcome.cut:
            count_degraded("inference.cut", "the turn's time was over before its answer had ended")
        completion = sum(candidate.usage.completion_tokens for candidate in outcome.candidates)
        timing = delivery.timing("inference", compute=outcome.compute)
        return InferDone(
            envelope=event.envelope.next("inference"),
            query=event.query,
            route=event.route,
            recall=event.recall,
            inference=Inference(
                candidates=outcome.candidates,
                usage=Usage(prompt_tokens=outcome.prompt_tokens, completion_tokens=completion),
                model=self.settings.model_name,
                model_digest=self.settings.model_digest,
                parameters=self._engine.parameters,
                prompt_tokens=outcome.own_tokens,
                cut=outcome.cut,
                echo=outcome.echo,
            ),
            timings=(*event.timings, timing),
        )

    async def _prefetch(self, message: LiveMessage) -> None:
        """Make the routed adapters resident while the memory recalls. It is a hint on a core subject: nothing is lost
        when it is missed."""
        await self._engine.prefetch(decode(QueryRouted, message.data).route.adapters)

    async def _forget(self, _: LiveMessage) -> None:
        """Drop every cached prompt: any of them may contain the forgotten text, as a recalled episode."""
        self._engine.forget()

    async def _follow_swaps(self, _: LiveMessage | None = None) -> None:
        """Take over the swaps that this worker was not asked for."""
        assert self._verbs is not None
        try:
            await self._verbs.follow_swaps()
        except KikiError as error:
            count_degraded("adapter.behind", f"the swaps of other workers cannot be read: {error.message}")

    async def adopt(self, event: AdapterPublished, _: Delivery) -> Event:
        """Load an adapter that passed the gates, and prove that it changes the model."""
        return await adapter_events.adopt_adapter(self._bus, self._engine, event)

    async def job(self, job: Job, delivery: Delivery) -> None:
        """Decode or score for another agent, and answer on its reply subject."""
        async with self._quarantine.hold(job.job_id):
            await self._job(job, delivery)

    async def _job(self, job: Job, delivery: Delivery) -> None:
        outcome = await self._generate(
            Request(
                lane=job.lane,
                tenant=job.envelope.tenant,
                messages=with_recall(job.messages, job.recall, zone=self._zone),
                sampling=job.sampling,
                adapters=job.adapters,
                n=job.n,
                choices=job.choices,
                ballots=job.ballots,
                enhance=job.enhance,
                deadline=job.envelope.deadline,
            )
        )
        result = JobResult(
            job_id=job.job_id,
            candidates=outcome.candidates,
            scores=tuple(dict(zip(job.choices, row, strict=True)) for row in outcome.scores),
            adapters=outcome.adapters,
            prompt_tokens=outcome.prompt_tokens,
            compute=outcome.compute,
            exact=outcome.exact,
        )
        await delivery.bus.answer(job, result)

    async def _generate(
        self, request: Request, on_piece: OnPiece | None = None, on_acceptance: OnAcceptance | None = None
    ) -> DecodingOutcome:
        """Run a request on the engine, whichever it is; numbers that are none are an error here, and go no further."""
        outcome = await self._engine.generate(request, on_piece, on_acceptance)
        return outcome.require_finite()

    async def refuse(self, job: Job, error: KikiError) -> None:
        """Answer the job with the error, because no result will come."""
        result = JobResult(job_id=job.job_id, code=error.code, message=error.message, retryable=error.retryable)
        await self._bus.answer(job, result)

    def _lane_handler(self, lane: Lane) -> Handler[Job]:
        return Handler(
            stage=f"job-{lane}",
            event=Job,
            handle=self.job,
            stream=JOBS,
            filters=(self._bus.subjects.lane(lane),),
            concurrency=self.settings.job_concurrency,
            fair=True,
            shared=True,
            give_up=self.refuse,
        )

    async def _decode_candidates(self, event: RecallDone, delivery: Delivery) -> DecodingOutcome:
        """Decode the turn's candidates, with as much of what the memory brought as the model's context holds."""
        plan, query = event.route.plan, event.query
        request = Request(
            lane="interactive",
            tenant=event.envelope.tenant,
            messages=query.messages,
            sampling=query.sampling,
            adapters=event.route.adapters,
            n=plan.candidates,
            tooling=query.tooling,
            enhance=plan.antibias,
            thinking=plan.thinking,
            deadline=event.envelope.deadline,
            finish=self._find_finish(event),
            own=own_messages(query.messages, event.recall),
            continuation=query.continuation,
        )
        signals = _TurnSignals(event, delivery, model_digest=self.settings.model_digest)
        panel_voices = panel.choose_voices(self._engine.filter_served(request.adapters), plan.candidates)
        voices = panel_voices if plan.negotiate and len(panel_voices) > 1 else ()
        if query.continuation is not None:
            return await self._draw_candidates(request, voices, signals)
        *longer, shortest = shorten_prompt(query.messages, event.recall, zone=self._zone)
        for messages in longer:
            try:
                return await self._draw_candidates(replace(request, messages=messages), voices, signals)
            except InvalidInput as error:
                if error.code != "context_length_exceeded":
                    raise
                count_degraded("inference.recall_dropped", error.message)
        return await self._draw_candidates(replace(request, messages=shortest), voices, signals)

    def _find_finish(self, event: RecallDone) -> float:
        """When the decoding ends, so that the stages behind can still pass the answer on."""
        envelope, level = event.envelope, event.route.plan.level
        seconds = self.settings.finish_seconds[LEVELS.index(level)]
        return envelope.deadline - min(seconds, FINISH_SHARE * max(0.0, envelope.remaining))

    async def _draw_candidates(
        self, request: Request, voices: Sequence[panel.Voice], signals: "_TurnSignals"
    ) -> DecodingOutcome:
        """Decode the request, or each voice's candidates at once; a voice that fails is left out and counted."""
        if not voices:
            return await self._generate(request, signals.on_piece, signals.on_acceptance)
        by_number: dict[int, DecodingOutcome] = {}
        errors: list[KikiError] = []
        uses = tuple(use for voice in voices for use in voice.adapters)
        hear_voice = signals.on_acceptance_of(uses)

        async def ask(voice: panel.Voice) -> None:
            sampling = msgspec.structs.replace(request.sampling, seed=voice.seed(request.sampling.seed))
            voice_request = replace(request, sampling=sampling, adapters=voice.adapters, n=voice.candidates)
            try:
                by_number[voice.number] = await self._generate(voice_request, None, hear_voice)
            except KikiError as error:
                errors.append(error)

        async with anyio.create_task_group() as tasks:
            for member in voices:
                tasks.start_soon(ask, member)
        if not by_number:
            raise errors[0]
        for error in errors:
            count_degraded("inference.member_lost", error.message)
        outcomes = [by_number[number] for number in sorted(by_number)]
        cut = any(outcome.cut for outcome in outcomes) or any(isinstance(error, DeadlineExceeded) for error in errors)
        candidates = panel.interleave([outcome.candidates for outcome in outcomes])
        return DecodingOutcome(
            candidates=select_usable(candidates) if cut else candidates,
            prompt_tokens=sum(outcome.prompt_tokens for outcome in outcomes),
            own_tokens=outcomes[0].own_tokens,
            cut=cut,
            compute=max(outcome.compute for outcome in outcomes),
        )


def _make_engine(settings: InferenceSettings) -> Engine:
    """The engine of the settings. MLX is imported here alone, so that a process with an upstream never loads it.

    Raises:
        SetupError: the settings do not say which upstream.
    """
    if settings.engine == "openai":
        from agents.inference.upstream.engine import OpenAIEngine

        if settings.upstream is None:
            raise SetupError(
                "engine = 'openai' needs [agents.inference.upstream] with base_url and model.", param="upstream"
            )
        return OpenAIEngine(settings, settings.upstream)
    from agents.inference.mlx import cpu

    cpu.preload()
    from agents.inference.mlx.engine import MlxEngine

    return MlxEngine(settings)


class _TurnSignals:
    """Signals what the bus may hear of a turn while it is at the model: that it is accepted, if the query is streamed,
    and each piece of its text, if the plan says so, with an index without gaps."""

    def __init__(self, event: RecallDone, delivery: Delivery, *, model_digest: str) -> None:
        self._turn_id, self._delivery, self._index = event.envelope.turn_id, delivery, 0
        self._model_digest = model_digest
        self._awaits_acceptance = event.query.stream
        is_live = event.route.plan.live_tokens and not delivery.bus.subjects.change_answers
        self.on_piece: OnPiece | None = self._signal_piece if is_live else None

    @property
    def on_acceptance(self) -> OnAcceptance | None:
        """Signals the acceptance; None when nobody waits for it."""
        return self._signal_acceptance if self._awaits_acceptance else None

    def on_acceptance_of(self, adapters: tuple[AdapterUse, ...]) -> OnAcceptance | None:
        """Signals the first acceptance of several requests, in which ``adapters`` take part together."""

        async def signal(acceptance: Acceptance) -> None:
            await self._signal_acceptance(replace(acceptance, adapters=adapters))

        return signal if self._awaits_acceptance else None

    async def _signal_acceptance(self, acceptance: Acceptance) -> None:
        if not self._awaits_acceptance:
            return
        self._awaits_acceptance = False
        begun = InferBegun(
            turn_id=self._turn_id,
            attempt=self._delivery.attempt,
            prompt_tokens=acceptance.prompt_tokens,
            adapters=acceptance.adapters,
            model_digest=self._model_digest,
        )
        await self._delivery.bus.signal(begun)

    async def _signal_piece(self, piece: Piece) -> None:
        assert piece.kind != "tool"  # a tool call comes whole, in the outcome
        token = InferToken(
            turn_id=self._turn_id,
            index=self._index,
            text=piece.text,
            attempt=self._delivery.attempt,
            kind=piece.kind,
            tokens=piece.tokens,
        )
        self._index += 1
        await self._delivery.bus.signal(token)
