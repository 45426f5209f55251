"""A recorded turn run once more with its recorded inputs, and where the outcome differs.

Router and memory are left out: what they found then goes to the worker as it was recorded. Nothing is recorded again.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec

from bus import record, turn_events
from bus.connection import Bus
from schemas.adapters import AdapterInfo, AdapterRequest
from schemas.chat import Sampling
from schemas.envelope import new_turn
from schemas.episode import Episode
from schemas.errors import InvalidInput, KikiError
from schemas.events import AnswerReady, EpisodeRecorded, RecallDone
from schemas.findings import AdapterUse, Plan, Query, Recall, RecalledEpisode, Route

ADAPTER_SECONDS = 60.0
"""How long the worker may take to read one adapter."""


@dataclass(frozen=True)
class Outcome:
    """What a turn came to, as far as its episode keeps it."""

    model_digest: str
    adapters: tuple[tuple[str, str], ...]
    candidates: tuple[str, ...]
    chosen_by: str
    dissent: str
    bias: str
    answer: str
    prompt_tokens: int


@dataclass(frozen=True)
class Inputs:
    """What a turn was given: all of it recorded. ``lacking`` says what the record does not hold (any more)."""

    tenant: str
    session_id: str
    query: Query
    route: Route
    recall: Recall
    lacking: tuple[str, ...] = ()


@dataclass(frozen=True)
class Difference:
    """One thing that came out differently."""

    what: str
    recorded: str
    again: str


@dataclass
class Rerun:
    """A turn and its repetition: where they differ, and what may explain it."""

    inputs: Inputs
    recorded: Outcome
    again: Outcome
    differences: list[Difference] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)


async def recorded(bus: Bus, turn_id: str) -> tuple[Inputs, Outcome]:
    """The turn's inputs and outcome: from its events while they are kept (an hour), else from its episode.

    Raises:
        InvalidInput: nothing of the turn is stored, or it has not been answered.
    """
    events = [told.event for told in await turn_events.tell(bus, turn_id)]
    asked = next((event for event in events if isinstance(event, RecallDone)), None)
    ready = next((event for event in events if isinstance(event, AnswerReady)), None)
    if asked is not None and ready is not None:
        envelope = asked.envelope
        inputs = Inputs(envelope.tenant, envelope.session_id, asked.query, asked.route, asked.recall)
        return inputs, outcome(ready)
    episode = next((event.episode for event in events if isinstance(event, EpisodeRecorded)), None)
    if episode is None:
        raise InvalidInput(f"turn '{turn_id}' has no answer on record: there is nothing to repeat.", param="turn_id")
    return await _of_episode(bus, episode), outcome_of(episode)


async def run_again(bus: Bus, turn_id: str, *, timeout: float = 120.0) -> Rerun:
    """Run the turn with its recorded inputs and compare.

    Raises:
        InvalidInput: nothing of the turn is stored, or it was never answered.
        KikiError: the repetition failed; with the code of the stage that failed.
    """
    inputs, before = await recorded(bus, turn_id)
    adapters, changed = await _present(bus, inputs.route.adapters)
    plan = msgspec.structs.replace(inputs.route.plan, record=False)
    route = msgspec.structs.replace(inputs.route, adapters=adapters, plan=plan)
    envelope = new_turn(tenant=inputs.tenant, session_id=inputs.session_id, timeout=timeout)
    ready = await bus.answered(
        RecallDone(envelope=envelope.next("memory"), query=inputs.query, route=route, recall=inputs.recall)
    )
    after = outcome(ready)
    found = differences(before, after)
    why = reasons(before, after, inputs.query.sampling, (*inputs.lacking, *changed)) if found else []
    return Rerun(inputs, before, after, found, why)


def outcome(event: AnswerReady) -> Outcome:
    """What an answered turn came to."""
    dissent = event.negotiation.dissent
    return Outcome(
        model_digest=event.inference.model_digest,
        adapters=_digests(event.inference.candidates[0].adapters),
        candidates=tuple(one.text for one in event.inference.candidates),
        chosen_by=event.negotiation.outcome,
        dissent=(dissent.tone if dissent.engaged else dissent.reason) if dissent else "",
        bias="refused" if event.bias.refused else "revised" if event.bias.revised else "as it was",
        answer=event.text,
        prompt_tokens=event.usage.prompt_tokens,
    )


def outcome_of(episode: Episode) -> Outcome:
    """The same of an episode."""
    dissent, bias = episode.dissent, episode.bias
    spoken = episode.candidates[0].adapters if episode.candidates else ()
    return Outcome(
        model_digest=episode.model_digest,
        adapters=_digests(spoken),
        candidates=tuple(one.text for one in episode.candidates),
        chosen_by=episode.outcome,
        dissent=(dissent.tone if dissent.engaged else dissent.reason) if dissent else "",
        bias="refused" if bias.refused else "revised" if bias.revised else "as it was",
        answer=episode.answer,
        prompt_tokens=episode.usage.prompt_tokens,
    )


def differences(before: Outcome, after: Outcome) -> list[Difference]:
    """Where two outcomes differ, in the order of a turn."""
    pairs = [
        ("model", before.model_digest, after.model_digest),
        ("adapters", _shown(before.adapters), _shown(after.adapters)),
        ("prompt tokens", str(before.prompt_tokens), str(after.prompt_tokens)),
        *(
            (f"candidate {number}", _at(before.candidates, number), _at(after.candidates, number))
            for number in range(max(len(before.candidates), len(after.candidates)))
        ),
        ("dissent", before.dissent, after.dissent),
        ("chosen by", before.chosen_by, after.chosen_by),
        ("bias check", before.bias, after.bias),
        ("answer", before.answer, after.answer),
    ]
    return [Difference(*pair) for pair in pairs if pair[1] != pair[2]]


def reasons(before: Outcome, after: Outcome, sampling: Sampling, known: Sequence[str]) -> list[str]:
    """What may explain a difference, surest first."""
    found = []
    if before.model_digest != after.model_digest:
        found.append("another model answers now: its digest differs")
    if before.adapters != after.adapters:
        found.append("other adapters took part: their digests differ")
    found += known
    if before.prompt_tokens != after.prompt_tokens:
        found.append("the model was asked with another number of tokens: prompts or stages have changed since")
    if sampling.temperature > 0:
        found.append(
            f"the text is drawn at temperature {sampling.temperature:g}: the seed {sampling.seed} is the same, but a "
            "batch of another size rounds otherwise, and one token drawn differently changes what follows"
        )
    else:
        found.append("greedy, but a batch of another size rounds otherwise, and two tokens nearly as likely may swap")
    return found


async def _of_episode(bus: Bus, episode: Episode) -> Inputs:
    lacking = []
    if episode.plan is None:
        lacking.append("the episode is older than version 2 of the contract: only its last question is known")
    hits = await _recalled(bus, episode)
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
    return Inputs(episode.tenant, episode.session_id, query, route, Recall(hits=hits), tuple(lacking))


async def _recalled(bus: Bus, episode: Episode) -> tuple[RecalledEpisode, ...]:
    """The recalled episodes in their order, as far as the record still has them."""
    wanted = set(episode.recalled_ids)
    if not wanted:
        return ()
    there = {
        one.episode_id: RecalledEpisode(
            episode_id=one.episode_id,
            turn_id=one.turn_id,
            question=one.question,
            answer=one.answer,
            score=0.0,
            reasons=("recorded",),
            created_at=one.created_at,
            session_id=one.session_id,
            speaker=one.speaker,
            source_id=one.source_id,
        )
        async for one in record.episodes(bus, tenant=episode.tenant)
        if one.episode_id in wanted
    }
    return tuple(there[name] for name in episode.recalled_ids if name in there)


async def _present(bus: Bus, uses: Sequence[AdapterUse]) -> tuple[tuple[AdapterUse, ...], list[str]]:
    """The adapters as the worker has them today, and what changed: it refuses a digest that is not there."""
    found, changed = [], []
    for use in uses:
        try:
            request = AdapterRequest(name=use.name)
            info = await bus.request("adapters.check", request, AdapterInfo, timeout=ADAPTER_SECONDS)
        except KikiError as error:
            changed.append(f"adapter '{use.name}' is left out: {error.message}")
            continue
        if use.sha256 and use.sha256 != info.sha256:
            changed.append(f"adapter '{use.name}' has changed: {use.sha256[:12]} then, {info.sha256[:12]} now")
        found.append(msgspec.structs.replace(use, sha256=info.sha256))
    return tuple(found), changed


def _digests(uses: Sequence[AdapterUse]) -> tuple[tuple[str, str], ...]:
    return tuple((use.name, use.sha256) for use in uses)


def _shown(adapters: Sequence[tuple[str, str]]) -> str:
    return ", ".join(f"{name}@{digest[:12]}" for name, digest in adapters) or "base model"


def _at(texts: Sequence[str], number: int) -> str:
    return texts[number] if number < len(texts) else "(none)"
