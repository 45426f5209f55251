"""The turn of an earlier response: in the streams for about an hour, afterwards in the record if it was recorded.

A turn is shown to its tenant and user alone; one of somebody else, one that was not to be stored, and one that was not
asked for as a response are as unknown as any other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from bus.connection import Bus
from bus.record import find_entry
from bus.turn import error_of
from bus.turns.events import find_end, find_first
from runtime.facade.chat import response
from runtime.facade.chat.request import CheckedRequest
from runtime.facade.owner import Owner
from runtime.facade.responses.dialect import ResponseDialect
from runtime.facade.responses.items import InputItem, describe_messages
from runtime.facade.responses.output import turn_of
from runtime.facade.responses.terms import Terms, read_terms
from schemas.chat import Message, with_answer
from schemas.envelope import Envelope, is_turn_id
from schemas.errors import DeadlineExceeded, InvalidInput, InvalidStage, KikiError
from schemas.events import AnswerReady, EpisodeRecorded, QueryReceived, TurnCancelled
from schemas.findings import Inference, Negotiation, Plan, Query, Recall, Route

PREFIX = "resp_"
"""What the id of a response begins with; its turn id follows."""


@dataclass(frozen=True, kw_only=True)
class EarlierResponse:
    """A response that was asked for before: ``answer`` is set when it has one, ``error`` when it failed."""

    envelope: Envelope
    query: Query
    terms: Terms
    answer: AnswerReady | None = None
    error: KikiError | None = None
    is_cancelled: bool = False

    @property
    def runs(self) -> bool:
        """Whether it has not ended."""
        return self.answer is None and self.error is None

    @property
    def messages(self) -> tuple[Message, ...]:
        """What it was made from, without its instructions."""
        return _without_instructions(self.query.messages, self.terms.instructions)

    def describe(self) -> dict[str, Any]:
        """The response, written again."""
        dialect = ResponseDialect(_restore_request(self.query, self.terms), self.terms)
        if self.answer is not None:
            return dialect.whole(self.answer)
        if self.error is None:
            return dialect.describe_state(self.envelope, "in_progress")
        if self.is_cancelled:
            return dialect.describe_state(self.envelope, "cancelled")
        return dialect.describe_state(self.envelope, "failed", self.error)

    def describe_input(self) -> list[dict[str, Any]]:
        """The items that it was made from, those of the responses that it continued included."""
        return describe_messages(self.messages, turn_id=self.envelope.turn_id, custom=self.terms.custom_tools)

    def continue_messages(self) -> tuple[Message, ...]:
        """The conversation up to the answer, with which the next turn begins.

        Raises:
            InvalidInput: there is no answer.
        """
        if self.answer is None:
            state = "still runs" if self.runs else "has no answer"
            raise InvalidInput(f"'{PREFIX}{self.envelope.turn_id}' {state}.", param="previous_response_id")
        (choice,) = response.choices(self.answer, _restore_request(self.query, self.terms))
        *messages, last = with_answer(self.messages, choice.text)
        return (*messages, msgspec.structs.replace(last, tool_calls=choice.calls))


@dataclass(frozen=True)
class EarlierResponses:
    """The responses of one tenant and user."""

    bus: Bus
    owner: Owner

    async def read(self, response_id: str) -> EarlierResponse:
        """The response of that id.

        Raises:
            InvalidInput: there is none.
            Unavailable: the broker is away.
        """
        if (earlier := await self._find(response_id.removeprefix(PREFIX), response_id)) is None:
            raise InvalidInput(f"Response with id '{response_id}' not found.", code="response_not_found", param="id")
        return earlier

    async def read_previous(self, response_id: str) -> EarlierResponse:
        """The response that a new one continues. Raises what :meth:`read` raises, in the new one's words."""
        try:
            return await self.read(response_id)
        except InvalidInput as error:
            raise InvalidInput(
                f"Previous response with id '{response_id}' not found.",
                code="previous_response_not_found",
                param="previous_response_id",
            ) from error

    async def resolve(self, items: str | Sequence[InputItem]) -> str | list[InputItem]:
        """The items, with the items of earlier responses in place of references to them.

        Raises:
            InvalidInput: an item is not there; ``param`` names its reference.
            Unavailable: the broker is away.
        """
        if isinstance(items, str):
            return items
        known: dict[str, InputItem] = {}
        resolved = []
        for index, item in enumerate(items):
            if item.kind == "item_reference":
                if item.id not in known:
                    known |= await self._read_items(turn_of(item.id or ""))
                if item.id not in known:
                    raise InvalidInput(
                        f"Item with id '{item.id}' not found.", code="response_not_found", param=f"input[{index}].id"
                    )
                item = known[item.id]
            resolved.append(item)
        return resolved

    async def _read_items(self, turn_id: str) -> dict[str, InputItem]:
        """The items of a turn, by their ids: what it was made from, and its output."""
        earlier = await self._find(turn_id, PREFIX + turn_id)
        items = [] if earlier is None else [*earlier.describe_input(), *earlier.describe()["output"]]
        return {item["id"]: msgspec.convert(item, InputItem) for item in items}

    async def _find(self, turn_id: str, response_id: str) -> EarlierResponse | None:
        if response_id != PREFIX + turn_id or not is_turn_id(turn_id):
            return None
        earlier = await _find_in_streams(self.bus, turn_id) or await _find_in_record(self.bus, turn_id)
        if earlier is None or (earlier.envelope.tenant, earlier.envelope.user) != self.owner:
            return None
        return earlier if earlier.query.store else None


async def _find_in_streams(bus: Bus, turn_id: str) -> EarlierResponse | None:
    error: KikiError | None = None
    try:
        end = await find_end(bus, turn_id)
    except InvalidStage as unreadable:
        end, error = None, unreadable
    if isinstance(end, AnswerReady):
        if (terms := read_terms(end.query.request)) is None:
            return None
        return EarlierResponse(envelope=end.envelope, query=end.query, terms=terms, answer=end)
    question = await find_first(bus, (QueryReceived,), turn_id)
    if question is None or (terms := read_terms(question.query.request)) is None:
        return None
    if end is not None:
        error = error_of(end)
    elif error is None and question.envelope.remaining <= 0:
        error = DeadlineExceeded("the turn's deadline passed before its answer.")
    return EarlierResponse(
        envelope=question.envelope,
        query=question.query,
        terms=terms,
        error=error,
        is_cancelled=isinstance(end, TurnCancelled),
    )


async def _find_in_record(bus: Bus, turn_id: str) -> EarlierResponse | None:
    entry = await find_entry(bus, turn_id)
    if not isinstance(entry, EpisodeRecorded) or (terms := read_terms(entry.episode.request)) is None:
        return None
    answer = _restore_answer(entry, terms)
    return EarlierResponse(envelope=answer.envelope, query=answer.query, terms=terms, answer=answer)


def _restore_answer(entry: EpisodeRecorded, terms: Terms) -> AnswerReady:
    """The answer of which an episode was made, as far as a response tells of it."""
    episode = entry.episode
    chosen = next((at for at, each in enumerate(episode.candidates) if each.text == episode.answer), 0)
    return AnswerReady(
        envelope=msgspec.structs.replace(entry.envelope, created_at=episode.created_at),
        query=Query(model=terms.model, messages=episode.messages, sampling=episode.sampling, request=episode.request),
        route=Route(
            domains=episode.domains,
            adapters=episode.adapters,
            intent=episode.intent,
            plan=episode.plan or Plan(level=episode.level),
        ),
        recall=Recall(),
        inference=Inference(
            candidates=episode.candidates,
            usage=episode.usage,
            model=episode.model,
            model_digest=episode.model_digest,
            prompt_tokens=episode.prompt_tokens,
            cut=episode.cut,
        ),
        negotiation=Negotiation(chosen=chosen, text=episode.answer, outcome="passed"),
        bias=episode.bias,
        text=episode.answer,
        finish_reason="length" if episode.cut else episode.candidates[chosen].finish_reason,
        usage=episode.usage,
        timings=episode.timings,
    )


def _restore_request(query: Query, terms: Terms) -> CheckedRequest:
    """The request of a stored turn, as far as its answer's shape depends on it."""
    return CheckedRequest(
        query=query,
        seed=None,
        level=query.level or "fast",
        stepped_down=None,
        n=1,
        trace=False,
        progress=False,
        thinking=terms.thinking,
        session=None,
        users=(),
        niche=None,
        custom_tools=terms.custom_tools,
    )


def _without_instructions(messages: tuple[Message, ...], instructions: str) -> tuple[Message, ...]:
    """The messages without the instructions, which begin the first one's text."""
    head = messages[0]
    if not instructions or head.role != "system" or not head.content.startswith(instructions):
        return messages
    rest = head.content.removeprefix(instructions).removeprefix("\n\n")
    return (msgspec.structs.replace(head, content=rest), *messages[1:]) if rest else messages[1:]
