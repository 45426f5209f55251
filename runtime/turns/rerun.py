"""Runs a recorded turn again with its recorded inputs, and compares the outcomes.

Router and memory are left out: the worker gets their recorded findings. The rerun itself is not recorded.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from bus import record
from bus.connection import Bus
from bus.turns.events import read_turn_events
from schemas.adapters import AdapterRequest
from schemas.calls import ADAPTERS_CHECK
from schemas.chat import Sampling
from schemas.envelope import new_turn
from schemas.episode import Episode
from schemas.errors import InvalidInput, KikiError
from schemas.events import AnswerReady, EpisodeRecorded, RecallDone
from schemas.findings import AdapterUse, BiasReport, Dissent, Plan, Query, Recall, RecalledEpisode, Route

ADAPTER_SECONDS = 60.0
"""How long the worker may take to read one adapter."""


@dataclass(frozen=True)
class RerunOutcome:
    """The results of a turn that its episode keeps too, so that events and episodes can be compared."""

    model_digest: str
    adapters: tuple[tuple[str, str], ...]
    candidates: tuple[str, ...]
    chosen_by: str
    dissent: str
    bias: str
    answer: str
    prompt_tokens: int


@dataclass(frozen=True)
class TurnInputs:
    """The recorded inputs of a turn. ``lacking`` are notes on inputs that the record does not hold, or not any more."""

    tenant: str
    user: str
    session_id: str
    query: Query
    route: Route
    recall: Recall
    lacking: tuple[str, ...] = ()


@dataclass(frozen=True)
class Difference:
    """One part of the outcome that differs."""

    part: str
    recorded: str
    again: str


@dataclass
class Rerun:
    """A turn and its repetition: where they differ, and what may explain it."""

    inputs: TurnInputs
    recorded: RerunOutcome
    again: RerunOutcome
    differences: list[Difference] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)


async def read_turn(bus: Bus, turn_id: str) -> tuple[TurnInputs, RerunOutcome]:
    """The turn's inputs and outcome: from its events while they are kept (an hour), else from its episode.

    Raises:
        InvalidInput: nothing of the turn is stored, or it has not been answered.
    """
    events = [entry.event for entry in await read_turn_events(bus, turn_id)]
    recall_done = next((event for event in events if isinstance(event, RecallDone)), None)
    answer_ready = next((event for event in events if isinstance(event, AnswerReady)), None)
    if recall_done is not None and answer_ready is not None:
        envelope = recall_done.envelope
        inputs = TurnInputs(
            envelope.tenant,
            envelope.user,
            envelope.session_id,
            recall_done.query,
            recall_done.route,
            recall_done.recall,
        )
        return inputs, outcome_of_answer(answer_ready)
    episode = next((event.episode for event in events if isinstance(event, EpisodeRecorded)), None)
    if episode is None:
        raise InvalidInput(f"turn '{turn_id}' has no answer on record: there is nothing to repeat.", param="turn_id")
    return await _inputs_of_episode(bus, episode), outcome_of_episode(episode)


async def run_again(bus: Bus, turn_id: str, *, timeout: float = 120.0) -> Rerun:
    """Run the turn with its recorded inputs and compare.

    Raises:
        InvalidInput: nothing of the turn is stored, or it was never answered.
        KikiError: the repetition failed; with the code of the stage that failed.
    """
    inputs, before = await read_turn(bus, turn_id)
    adapters, adapter_notes = await _check_adapters(bus, inputs.route.adapters)
    plan = msgspec.structs.replace(inputs.route.plan, record=False)
    route = msgspec.structs.replace(inputs.route, adapters=adapters, plan=plan)
    envelope = new_turn(tenant=inputs.tenant, user=inputs.user, session_id=inputs.session_id, timeout=timeout)
    query = msgspec.structs.replace(inputs.query, awaited=False)  # nobody takes the repetition's answer
    ready = await bus.publish_and_wait(
        RecallDone(envelope=envelope.next("memory"), query=query, route=route, recall=inputs.recall)
    )
    after = outcome_of_answer(ready)
    deviations = differences(before, after)
    explanations = (
        reasons(before, after, inputs.query.sampling, (*inputs.lacking, *adapter_notes)) if deviations else []
    )
    return Rerun(inputs, before, after, deviations, explanations)


def outcome_of_answer(event: AnswerReady) -> RerunOutcome:
    """The outcome of a turn, from its answer event."""
    return RerunOutcome(
        model_digest=event.inference.model_digest,
        adapters=_digests(event.inference.candidates[0].adapters),
        candidates=tuple(candidate.text for candidate in event.inference.candidates),
        chosen_by=event.negotiation.outcome,
        dissent=_dissent_text(event.negotiation.dissent),
        bias=_bias_text(event.bias),
        answer=event.text,
        prompt_tokens=event.usage.prompt_tokens,
    )


def outcome_of_episode(episode: Episode) -> RerunOutcome:
    """The outcome of a turn, from its episode."""
    uses = episode.candidates[0].adapters if episode.candidates else ()
    return RerunOutcome(
        model_digest=episode.model_digest,
        adapters=_digests(uses),
        candidates=tuple(candidate.text for candidate in episode.candidates),
        chosen_by=episode.outcome,
        dissent=_dissent_text(episode.dissent),
        bias=_bias_text(episode.bias),
        answer=episode.answer,
        prompt_tokens=episode.usage.prompt_tokens,
    )


def differences(before: RerunOutcome, after: RerunOutcome) -> list[Difference]:
    """Where two outcomes differ, in the order of a turn."""
    pairs = [
        ("model", before.model_digest, after.model_digest),
        ("adapters", _adapters_text(before.adapters), _adapters_text(after.adapters)),
        ("prompt tokens", str(before.prompt_tokens), str(after.prompt_tokens)),
        *(
            (f"candidate {number}", _text_at(before.candidates, number), _text_at(after.candidates, number))
            for number in range(max(len(before.candidates), len(after.candidates)))
        ),
        ("dissent", before.dissent, after.dissent),
        ("chosen by", before.chosen_by, after.chosen_by),
        ("bias check", before.bias, after.bias),
        ("answer", before.answer, after.answer),
    ]
    return [Difference(*pair) for pair in pairs if pair[1] != pair[2]]


def reasons(before: RerunOutcome, after: RerunOutcome, sampling: Sampling, notes: Sequence[str]) -> list[str]:
    """What may explain the differences, the surest reason first."""
    explanations = []
    if before.model_digest != after.model_digest:
        explanations.append("another model answers now: its digest differs")
    if before.adapters != after.adapters:
        explanations.append("other adapters took part: their digests differ")
    explanations += notes
    if before.prompt_tokens != after.prompt_tokens:
        explanations.append("the model was asked with another number of tokens: prompts or stages have changed since")
    if sampling.temperature > 0:
        explanations.append(
            f"the text is drawn at temperature {sampling.temperature:g}: the seed {sampling.seed} is the same, but a "
            "batch of another size rounds otherwise, and one token drawn differently changes what follows"
        )
    else:
        explanations.append(
            "greedy, but a batch of another size rounds otherwise, and two tokens nearly as likely may swap"
        )
    return explanations


async def _inputs_of_episode(bus: Bus, episode: Episode) -> TurnInputs:
    lacking = []
    if episode.plan is None:
        lacking.append("the episode is older than version 2 of the contract: only its last question is known")
    hits = await _read_recalled(bus, episode)
    if len(hits) < len(episode.recalled_ids):
        lacking.append(f"{len(episode.recalled_ids) - len(hits)} recalled episodes are forgotten since")
    if hits:
        lacking.append("recalled texts are read from the record, where they are not shortened")
    route = Route(
        domains=episode.domains,
        adapters=episode.adapters,
        intent=episode.intent,
        plan=episode.plan or Plan(level=episode.level, candidates=max(1, len(episode.candidates))),
        embedding=episode.embedding,
        advisories=episode.advisories,
    )
    if not episode.messages:
        raise InvalidInput(f"episode {episode.episode_id} was imported: it has no turn to repeat.", param="turn_id")
    query = Query(model=episode.model, messages=episode.messages, sampling=episode.sampling, level=episode.level)
    recall = Recall(hits=hits, history=episode.history_ids)
    return TurnInputs(episode.tenant, episode.user, episode.session_id, query, route, recall, tuple(lacking))


async def _read_recalled(bus: Bus, episode: Episode) -> tuple[RecalledEpisode, ...]:
    """The recalled episodes in their order, as far as the record still has them."""
    ids = set(episode.recalled_ids)
    if not ids:
        return ()
    recalled = {
        past.episode_id: RecalledEpisode(
            episode_id=past.episode_id,
            turn_id=past.turn_id,
            question=past.question,
            answer="" if past.episode_id in episode.question_only_ids else past.answer,
            score=0.0,
            reasons=("recorded",),
            created_at=past.created_at,
            session_id=past.session_id,
            speaker=past.speaker,
            source_id=past.source_id,
            superseded_by=episode.superseded_by.get(past.episode_id, ""),
        )
        async for past in record.read_episodes(bus, tenant=episode.tenant, user=episode.user)
        if past.episode_id in ids
    }
    return tuple(recalled[name] for name in episode.recalled_ids if name in recalled)


async def _check_adapters(bus: Bus, uses: Sequence[AdapterUse]) -> tuple[tuple[AdapterUse, ...], list[str]]:
    """The adapters with the digests that the worker has today, as it refuses any other, and notes on what changed."""
    present, notes = [], []
    for use in uses:
        try:
            request = AdapterRequest(name=use.name)
            info = await bus.request(ADAPTERS_CHECK, request, timeout=ADAPTER_SECONDS)
        except KikiError as error:
            notes.append(f"adapter '{use.name}' is left out: {error.message}")
            continue
        if use.sha256 and use.sha256 != info.sha256:
            notes.append(f"adapter '{use.name}' has changed: {use.sha256[:12]} then, {info.sha256[:12]} now")
        present.append(msgspec.structs.replace(use, sha256=info.sha256))
    return tuple(present), notes


def _dissent_text(dissent: Dissent | None) -> str:
    if dissent is None:
        return ""
    return dissent.tone if dissent.engaged else dissent.reason


def _bias_text(bias: BiasReport) -> str:
    if bias.refused:
        return "refused"
    return "revised" if bias.revised else "as it was"


def _digests(uses: Sequence[AdapterUse]) -> tuple[tuple[str, str], ...]:
    return tuple((use.name, use.sha256) for use in uses)


def _adapters_text(adapters: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{name}@{digest[:12]}" for name, digest in adapters) or "base model"


def _text_at(texts: Sequence[str], number: int) -> str:
    return texts[number] if number < len(texts) else "(none)"
