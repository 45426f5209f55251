"""Arranges a conversation as a chat template takes it.

Clients send system messages anywhere, several messages of one role in a row, or none of the user at all. Templates
differ in what of it they take: some raise, some leave a text out. What a template takes is found out once, by small
conversations; then a conversation is changed only where its template would not show it as it is.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from msgspec.structs import replace

from schemas.chat import Message

Entry = dict[str, Any]
"""A message as templates take it."""
Render = Callable[[list[Entry], list[Entry] | None], str]
"""Renders a conversation and the tools offered in it; raises what the template raises."""


@dataclass(frozen=True, kw_only=True)
class Manners:
    """What a chat template takes.

    ``system``: where a system message may stand. ``user_first``: the user must begin. ``alternates``: user and
    assistant must take turns. ``needs_user``: there must be a message of the user. ``one_call``: an assistant makes one
    call at a time. ``short_ids``: ids of calls are nine letters and digits.
    """

    system: Literal["anywhere", "first", "never"] = "anywhere"
    user_first: bool = False
    alternates: bool = False
    needs_user: bool = False
    one_call: bool = False
    short_ids: bool = False


_TOOLS: list[Entry] = [
    {"type": "function", "function": {"name": "probe", "description": "", "parameters": {"type": "object"}}}
]
STRICTEST = Manners(system="never", user_first=True, alternates=True, needs_user=True, one_call=True, short_ids=True)
"""What every template takes."""


def find_manners(render: Render, *, native_tools: bool) -> Manners:
    """What the template takes. One that does not even show a plain question is left alone."""
    user, other_user, system, other_system, answer, other_answer = (
        {"role": role, "content": f"probe-{number}"}
        for number, role in enumerate(("user", "user", "system", "system", "assistant", "assistant"))
    )
    if not _shows(render, [user]):
        return Manners()
    place: Literal["anywhere", "first", "never"] = "never"
    if _shows(render, [system, user]):
        anywhere = [system, other_system, user, answer, {"role": "system", "content": "probe-6"}, other_user]
        place = "anywhere" if _shows(render, anywhere) else "first"
    in_a_row = [user, other_user, answer, other_answer, {"role": "user", "content": "probe-7"}]
    return Manners(
        system=place,
        user_first=not (_shows(render, [answer, user]) and (not native_tools or _shows_call_first(render, user))),
        alternates=not _shows(render, in_a_row),
        needs_user=place == "never" or not _shows(render, [system]),
        **(_find_manners_of_calls(render, user) if native_tools else {}),
    )


def is_continued(messages: Sequence[Message]) -> bool:
    """Whether a conversation ends within the assistant's message; one with calls waits for what comes back."""
    return bool(messages) and messages[-1].role == "assistant" and not messages[-1].tool_calls


def arrange(messages: Sequence[Message], manners: Manners) -> list[Message]:
    """The conversation as a template with these manners takes it; nothing is left out."""
    conversation = list(messages)
    if manners.one_call:
        conversation = split_calls(conversation)
    if manners.short_ids:
        conversation = shorten_ids(conversation)
    if manners.system != "anywhere":
        conversation = move_system_first(conversation)
    if manners.system == "never":
        conversation = give_system_to_user(conversation)
    if manners.alternates:
        conversation = take_turns(conversation)
    if manners.user_first:
        conversation = let_user_begin(conversation)
    if manners.needs_user and not any(message.role == "user" for message in conversation):
        conversation = _with_empty_question(conversation)
    return conversation


def arrange_strictly(messages: Sequence[Message]) -> list[Message]:
    """The conversation as every template takes it: all system texts stand before everything else."""
    system = [message for message in messages if message.role == "system"]
    return arrange([*system, *(message for message in messages if message.role != "system")], STRICTEST)


def move_system_first(messages: Sequence[Message]) -> list[Message]:
    """One system message, at the beginning. One that comes later becomes a part of the user's next message, or else of
    the one before; at the very end it is a message of the user itself."""
    leading = _leading_system(messages)
    first = [replace(leading[0], content=_join(message.content for message in leading))] if leading else []
    conversation = list(messages[len(leading) :])
    while (at := next((at for at, message in enumerate(conversation) if message.role == "system"), None)) is not None:
        text = conversation.pop(at).content
        after = next((place for place in range(at, len(conversation)) if conversation[place].role == "user"), None)
        before = next((place for place in reversed(range(at)) if conversation[place].role == "user"), None)
        if after is not None:
            conversation[after] = replace(conversation[after], content=_join([text, conversation[after].content]))
        elif at == len(conversation):
            conversation.append(Message(role="user", content=text))
        elif before is not None:
            conversation[before] = replace(conversation[before], content=_join([conversation[before].content, text]))
        else:
            conversation.insert(at, Message(role="user", content=text))
    return [*first, *conversation]


def give_system_to_user(messages: Sequence[Message]) -> list[Message]:
    """The conversation without its first system message: its text begins the user's first message."""
    if not messages or messages[0].role != "system":
        return list(messages)
    system, *conversation = messages
    at = next((at for at, message in enumerate(conversation) if message.role == "user"), None)
    if at is None:
        return [Message(role="user", content=system.content), *conversation]
    conversation[at] = replace(conversation[at], content=_join([system.content, conversation[at].content]))
    return conversation


def take_turns(messages: Sequence[Message]) -> list[Message]:
    """The user and the assistant by turns: neighbours of one role are joined, and between what came back of a call and
    the user's next message there is an empty answer."""
    conversation: list[Message] = []
    for message in messages:
        last = conversation[-1] if conversation else None
        if last is not None and last.role == message.role and message.role in ("user", "assistant"):
            content = _join([last.content, message.content])
            conversation[-1] = replace(last, content=content, tool_calls=(*last.tool_calls, *message.tool_calls))
            continue
        if message.role == "user" and last is not None and last.role == "tool":
            conversation.append(Message(role="assistant", content=""))
        conversation.append(message)
    return conversation


def let_user_begin(messages: Sequence[Message]) -> list[Message]:
    """The conversation with an empty message of the user where another begins it."""
    start = len(_leading_system(messages))
    begins = messages[start].role if start < len(messages) else "user"
    return list(messages) if begins == "user" else _with_empty_question(messages)


def split_calls(messages: Sequence[Message]) -> list[Message]:
    """Each call in a message of its own, and what came back of it behind it."""
    conversation: list[Message] = []
    rest = list(messages)
    while rest:
        message = rest.pop(0)
        if len(message.tool_calls) < 2:
            conversation.append(message)
            continue
        results = [rest.pop(0) for _ in range(_count_results(rest))]
        for number, call in enumerate(message.tool_calls):
            conversation.append(replace(message, content="" if number else message.content, tool_calls=(call,)))
            conversation += [result for result in results if result.tool_call_id == call.id]
            results = [result for result in results if result.tool_call_id != call.id]
        conversation += results
    return conversation


def shorten_ids(messages: Sequence[Message]) -> list[Message]:
    """Ids of calls as nine letters and digits; equal ones stay equal."""
    return [
        replace(
            message,
            tool_calls=tuple(replace(call, id=_shorten(call.id)) for call in message.tool_calls),
            tool_call_id=_shorten(message.tool_call_id or "") if message.role == "tool" else message.tool_call_id,
        )
        for message in messages
    ]


def _with_empty_question(messages: Sequence[Message]) -> list[Message]:
    start = len(_leading_system(messages))
    return [*messages[:start], Message(role="user", content=""), *messages[start:]]


def _find_manners_of_calls(render: Render, user: Entry) -> dict[str, bool]:
    for one_call in (False, True):
        for short_ids in (False, True):
            if _shows(render, [user, *_make_loop(calls=1 if one_call else 2, short_ids=short_ids)], _TOOLS):
                return {"one_call": one_call, "short_ids": short_ids}
    return {}


def _shows_call_first(render: Render, user: Entry) -> bool:
    """Whether a call may begin the conversation; some templates take its place for the tools."""
    return any(_shows(render, [*_make_loop(calls=1, short_ids=short_ids), user], _TOOLS) for short_ids in (False, True))


def _make_loop(*, calls: int, short_ids: bool) -> list[Entry]:
    """A message with calls and what comes back of each."""
    ids = [_shorten(str(number)) if short_ids else f"call_{number:024}" for number in range(calls)]
    function = {"name": "probe", "arguments": {"text": "probe-8"}}
    return [
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"id": call_id, "type": "function", "function": function} for call_id in ids],
        },
        *(
            {"role": "tool", "content": f"probe-result-{number}", "tool_call_id": call_id, "name": "probe"}
            for number, call_id in enumerate(ids)
        ),
    ]


def _shows(render: Render, entries: list[Entry], tools: list[Entry] | None = None) -> bool:
    """Whether the template takes the conversation and every text of it is there."""
    try:
        text = render(entries, tools)
    except Exception:  # noqa: BLE001 - a template may raise anything, and then it does not take it
        return False
    calls = [call for entry in entries for call in entry.get("tool_calls", ())]
    parts = [entry["content"] for entry in entries] + [call["function"]["arguments"]["text"] for call in calls]
    return all(part in text for part in parts)


def _leading_system(messages: Sequence[Message]) -> Sequence[Message]:
    end = next((at for at, message in enumerate(messages) if message.role != "system"), len(messages))
    return messages[:end]


def _count_results(messages: Sequence[Message]) -> int:
    return next((at for at, message in enumerate(messages) if message.role != "tool"), len(messages))


def _join(texts: Iterable[str]) -> str:
    return "\n\n".join(text for text in texts if text.strip())


def _shorten(call_id: str) -> str:
    if len(call_id) == 9 and call_id.isascii() and call_id.isalnum():
        return call_id
    return hashlib.sha256(call_id.encode()).hexdigest()[:9]
