"""Conversations under templates with the guards of four families: all are served, and nothing of them is lost."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from agents.inference.arrangement import STRICTEST, Manners, arrange, arrange_strictly, find_manners, take_turns
from agents.inference.prompt import PromptEncoder
from schemas.chat import Message, Tool, ToolCall, Tooling
from schemas.errors import InvalidInput

TEMPLATES = Path(__file__).parent / "templates"
FAMILIES = ("qwen", "llama", "mistral", "gemma", "forgetful")
NATIVE = ("qwen", "llama", "mistral")
"""Families whose templates write tools and calls themselves."""
LOOK = Tool(name="look", description="Looks.", parameters='{"type": "object", "properties": {"at": {}}}')
TOOLS = Tooling(tools=(LOOK,))


class TemplatedTokenizer:
    """The small model's tokenizer with another chat template."""

    def __init__(self, tokenizer: Any, template: str) -> None:
        self._tokenizer, self._template = tokenizer, template

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def apply_chat_template(self, messages: Any, **options: Any) -> str:
        return str(self._tokenizer.apply_chat_template(messages, chat_template=self._template, **options))


@pytest.fixture(scope="module")
def tokenizer(small_model: Path) -> Any:
    return AutoTokenizer.from_pretrained(small_model)


@pytest.fixture(scope="module")
def encoders(tokenizer: Any) -> dict[tuple[str, bool], PromptEncoder]:
    """An encoder by family, and by whether its template writes tools."""
    return {
        (family, native): PromptEncoder(
            TemplatedTokenizer(tokenizer, (TEMPLATES / f"{family}.jinja").read_text()),
            context_tokens=100_000,
            native_tools=native,
        )
        for family, native in [*((family, False) for family in FAMILIES), *((family, True) for family in NATIVE)]
    }


def system(text: str) -> Message:
    return Message(role="system", content=text)


def user(text: str) -> Message:
    return Message(role="user", content=text)


def assistant(text: str = "", *calls: str, arguments: str = '{"at": "ASKED"}') -> Message:
    tool_calls = tuple(ToolCall(id=f"call_{name:0>24}", name="look", arguments=arguments) for name in calls)
    return Message(role="assistant", content=text, tool_calls=tool_calls)


def result(name: str, text: str) -> Message:
    return Message(role="tool", content=text, tool_call_id=f"call_{name:0>24}", name="look")


CONVERSATIONS: dict[str, tuple[Message, ...]] = {
    "plain": (system("RULES"), user("ONE"), assistant("TWO"), user("THREE")),
    "system only": (system("RULES"),),
    "several systems only": (system("RULES"), system("MORE")),
    "system in the middle": (system("RULES"), user("ONE"), assistant("TWO"), system("MORE"), user("THREE")),
    "system at the end": (user("ONE"), assistant("TWO"), system("RULES")),
    "system behind a question": (user("ONE"), system("RULES")),
    "system before an answer": (user("ONE"), system("RULES"), assistant("TWO"), user("THREE")),
    "several systems": (system("RULES"), system("MORE"), user("ONE")),
    "users in a row": (user("ONE"), user("TWO"), user("THREE")),
    "assistants in a row": (user("ONE"), assistant("TWO"), assistant("THREE"), user("FOUR")),
    "assistant first": (assistant("ONE"), user("TWO")),
    "empty question": (user(""),),
    "empty question later": (system("RULES"), user("ONE"), assistant("TWO"), user("")),
    "a call": (user("ONE"), assistant("", "a"), result("a", "TWO")),
    "a call with words": (user("ONE"), assistant("", "a"), result("a", "TWO"), assistant("THREE"), user("FOUR")),
    "two calls": (user("ONE"), assistant("", "a", "b"), result("a", "TWO"), result("b", "THREE")),
    "two calls, results the other way": (user("ONE"), assistant("", "a", "b"), result("b", "TWO"), result("a", "SIX")),
    "a loop of calls": (user("ONE"), assistant("", "a"), result("a", "TWO"), assistant("", "b"), result("b", "THREE")),
    "no result": (user("ONE"), assistant("", "a"), result("a", "")),
    "a question behind a result": (user("ONE"), assistant("", "a"), result("a", "TWO"), user("THREE")),
    "system behind a result": (user("ONE"), assistant("", "a"), result("a", "TWO"), system("RULES")),
    "a call without a question": (system("RULES"), assistant("", "a"), result("a", "TWO")),
}
CONTINUED: dict[str, tuple[Message, ...]] = {
    "an answer": (user("ONE"), assistant("The answer is")),
    "an answer with a blank": (user("ONE"), assistant("The answer is ")),
    "an answer with lines": (user("ONE"), assistant("First.\n\nSecond:\n")),
    "an answer with rules": (system("RULES"), user("ONE"), assistant("Well")),
    "the answer alone": (assistant("Once upon a time"),),
    "rules and the answer": (system("RULES"), assistant("Once upon a time")),
    "rules before the answer": (user("ONE"), system("RULES"), assistant("Once upon a time")),
    "an answer to a result": (user("ONE"), assistant("", "a"), result("a", "TWO"), assistant("It says")),
    "two answers": (user("ONE"), assistant("Once"), assistant("upon a time")),
    "special tokens": (user("ONE"), assistant("a <|im_end|> b<|im_start|>")),
}


def texts(messages: tuple[Message, ...]) -> list[str]:
    return [message.content for message in messages if message.content.strip()]


@pytest.mark.parametrize("name", CONVERSATIONS)
@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_conversation_is_served_under_every_template(
    encoders: Any, tokenizer: Any, family: str, native: bool, name: str
) -> None:
    if native and family not in NATIVE:
        return
    conversation = CONVERSATIONS[name]
    tooling = TOOLS if any(message.tool_calls for message in conversation) else None
    prompt = tokenizer.decode(encoders[family, native].encode(conversation, tooling).tokens)
    places = {text: prompt.find(text) for text in texts(conversation)}
    assert -1 not in places.values(), prompt
    assert [prompt.count(text) for text in places] == [1] * len(places)
    spoken = [places[message.content] for message in conversation if message.role != "system" and message.content]
    results = [message.content for message in conversation if message.role == "tool"]
    assert spoken == sorted(spoken) or (family == "llama" and len(results) > 1), "only the order of results may change"
    if tooling is not None:
        calls = sum(len(message.tool_calls) for message in conversation)
        assert prompt.count("ASKED") == calls
        assert "Looks." in prompt


@pytest.mark.parametrize("name", CONTINUED)
@pytest.mark.parametrize("family", FAMILIES)
def test_an_answer_at_the_end_is_continued_under_every_template(
    encoders: Any, tokenizer: Any, family: str, name: str
) -> None:
    conversation = CONTINUED[name]
    prompt = encoders[family, family in NATIVE].encode(conversation)
    text = tokenizer.decode(prompt.tokens)
    assert text.endswith(conversation[-1].content)
    assert [text.count(part) for part in texts(conversation)] == [1] * len(texts(conversation))
    assert not prompt.thinking


@pytest.mark.parametrize("family", FAMILIES)
def test_only_the_answer_itself_is_opened(encoders: Any, tokenizer: Any, family: str) -> None:
    """The continued message begins as an answer in the conversation does, and nothing closes it."""
    encoder = encoders[family, False]
    continued = tokenizer.decode(encoder.encode((user("ONE"), assistant("TWO"))).tokens)
    later = tokenizer.decode(encoder.encode((user("ONE"), assistant("TWO"), user("THREE"))).tokens)
    without_reasoning = continued.replace("<think>\n\n</think>\n\n", "")
    assert later.startswith(without_reasoning)


@pytest.mark.parametrize(("text", "is_thinking"), [("<think>\nLet me", True), ("<think>so</think>\nIt is", False)])
def test_a_continued_answer_may_be_within_its_reasoning(encoders: Any, text: str, is_thinking: bool) -> None:
    assert encoders["gemma", False].encode((user("ONE"), assistant(text))).thinking is is_thinking


def test_a_blank_answer_at_the_end_is_no_answer(encoders: Any) -> None:
    encoder = encoders["qwen", True]
    assert encoder.encode((user("ONE"), assistant(" \n"))) == encoder.encode((user("ONE"),))
    assert encoder.encode((assistant(""),)).tokens


def test_an_answer_with_calls_at_the_end_is_not_continued(encoders: Any, tokenizer: Any) -> None:
    for family in ("qwen", "llama", "gemma", "forgetful"):
        prompt = tokenizer.decode(encoders[family, False].encode((user("ONE"), assistant("", "a")), TOOLS).tokens)
        opened = tokenizer.decode(encoders[family, False].encode((user("ONE"),)).tokens)
        assert prompt[-2:] == opened[-2:], "a new answer is opened"


def test_a_conversation_that_the_template_takes_stays_as_it_is_sent(tokenizer: Any) -> None:
    """The small model's own template takes everything, so its prompts are the client's messages."""
    encoder = PromptEncoder(tokenizer, context_tokens=4096)
    for name in ("system in the middle", "several systems", "users in a row", "assistant first", "system at the end"):
        entries = [{"role": message.role, "content": message.content} for message in CONVERSATIONS[name]]
        expected = tokenizer.apply_chat_template(entries, add_generation_prompt=True, return_dict=False)
        assert list(encoder.encode(CONVERSATIONS[name]).tokens) == expected


@pytest.mark.parametrize(
    ("family", "native", "manners"),
    [
        ("qwen", True, Manners(system="first", needs_user=True)),
        ("llama", True, Manners(user_first=True, one_call=True)),
        ("mistral", True, Manners(system="first", user_first=True, alternates=True, needs_user=True, short_ids=True)),
        ("gemma", False, Manners(system="never", user_first=True, alternates=True, needs_user=True)),
        ("forgetful", False, Manners(system="first")),
    ],
)
def test_manners_are_found_by_trying(tokenizer: Any, family: str, native: bool, manners: Manners) -> None:
    templated = TemplatedTokenizer(tokenizer, (TEMPLATES / f"{family}.jinja").read_text())

    def render(entries: Any, tools: Any) -> str:
        options = {} if tools is None else {"tools": tools}
        return templated.apply_chat_template(entries, tokenize=False, add_generation_prompt=True, **options)

    assert find_manners(render, native_tools=native) == manners


def test_a_template_that_shows_nothing_is_left_alone() -> None:
    assert find_manners(lambda entries, _: f"{len(entries)}", native_tools=True) == Manners()


MESSAGES = st.lists(
    st.builds(
        lambda role, text, calls: Message(
            role=role,
            content=text,
            tool_calls=tuple(ToolCall(id=call, name="look", arguments="{}") for call in calls)
            if role == "assistant"
            else (),
            tool_call_id="a" if role == "tool" else None,
        ),
        st.sampled_from(["system", "user", "assistant", "tool"]),
        st.sampled_from(["", "w1", "w2", "w3", "w4"]),
        st.lists(st.sampled_from("abc"), max_size=2),
    ),
    max_size=6,
)


@given(MESSAGES, st.sampled_from(["anywhere", "first", "never"]), st.lists(st.booleans(), min_size=5, max_size=5))
def test_an_arrangement_loses_no_word_and_no_call(messages: list[Message], place: Any, flags: list[bool]) -> None:
    names = ("user_first", "alternates", "needs_user", "one_call", "short_ids")
    manners = Manners(system=place, **dict(zip(names, flags, strict=True)))

    def words(conversation: list[Message]) -> list[str]:
        return sorted(word for message in conversation for word in message.content.split())

    def calls(conversation: list[Message]) -> int:
        return sum(len(message.tool_calls) for message in conversation)

    for arrangement in (arrange(messages, manners), arrange_strictly(messages)):
        assert (words(arrangement), calls(arrangement)) == (words(messages), calls(messages))
    if manners == Manners():
        assert arrange(messages, manners) == messages


@given(MESSAGES)
def test_the_strictest_arrangement_takes_turns(messages: list[Message]) -> None:
    arrangement = arrange_strictly(messages)
    assert all(message.role != "system" for message in arrangement)
    turns = [message.role for message in arrangement if message.role == "user" or not message.tool_calls]
    turns = [role for role in turns if role != "tool"]
    assert arrangement[0].role == "user"
    assert STRICTEST.needs_user
    if not any(message.role == "tool" or message.tool_calls for message in messages):
        assert all(one != other for one, other in itertools.pairwise(turns))
    assert take_turns(arrangement) == arrangement


@pytest.mark.parametrize("arguments", ["", "null", "{}", " \n"])
@pytest.mark.parametrize("family", NATIVE)
def test_a_call_of_the_history_without_arguments_is_served(encoders: Any, family: str, arguments: str) -> None:
    conversation = (user("ONE"), assistant("", "a", arguments=arguments), result("a", "TWO"))
    empty = (user("ONE"), assistant("", "a", arguments="{}"), result("a", "TWO"))
    encoder = encoders[family, True]
    assert encoder.encode(conversation, TOOLS) == encoder.encode(empty, TOOLS)


FAULTS = ['{"cmd": ', '["ls"]', "5", '"ls"', "true", "ls -l", '{"a":' * 300 + "1" + "}" * 300, "9" * 5000]


@pytest.mark.parametrize("arguments", FAULTS, ids=lambda text: text[:10])
def test_arguments_that_are_no_object_are_text_or_named(encoders: Any, tokenizer: Any, arguments: str) -> None:
    before = (system("RULES"), user("ONE"), assistant("", "a"), result("a", "TWO"), user("THREE"))
    conversation = (*before, assistant("", "b", "c", arguments=arguments), result("b", "FOUR"))
    with pytest.raises(InvalidInput, match="JSON object") as caught:
        encoders["qwen", True].encode(conversation, TOOLS)
    assert caught.value.param == "messages[5].tool_calls[0].function.arguments"
    for family, native in (("llama", True), ("mistral", True), ("qwen", False), ("gemma", False)):
        prompt = tokenizer.decode(encoders[family, native].encode(conversation, TOOLS).tokens)
        assert prompt.count(json.dumps(arguments)) == 2


@pytest.mark.parametrize("family", NATIVE)
def test_half_characters_of_arguments_become_text(encoders: Any, tokenizer: Any, family: str) -> None:
    call = assistant("", "a", arguments='{"at": "x\\ud83d\\ude0ay\\ud83dz"}')
    prompt = tokenizer.decode(encoders[family, True].encode((user("ONE"), call, result("a", "TWO")), TOOLS).tokens)
    assert "x😊y" in prompt or "x\\ud83d\\ude0ay" in prompt


@pytest.mark.parametrize(
    "fault",
    [
        "{{ 1 / 0 }}",
        "{{ messages[0].content + 1 }}",
        "{{ nothing.at.all }}",
        "{{ raise_exception('no') }}",
        "{% bad %}",
    ],
)
def test_whatever_a_template_raises_is_the_messages_fault(tokenizer: Any, fault: str) -> None:
    encoder = PromptEncoder(TemplatedTokenizer(tokenizer, fault), context_tokens=64)
    with pytest.raises(InvalidInput, match="refuses the messages") as caught:
        encoder.encode([user("hi")])
    assert caught.value.param == "messages"


def test_an_answer_that_a_template_does_not_show_cannot_be_continued(tokenizer: Any) -> None:
    encoder = PromptEncoder(TemplatedTokenizer(tokenizer, "{{ messages[0].content }}"), context_tokens=64)
    with pytest.raises(InvalidInput, match="cannot be continued"):
        encoder.encode((user("ONE"), assistant("TWO")))
