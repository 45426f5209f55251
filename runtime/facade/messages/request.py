"""What a client asks of ``POST /v1/messages``: Anthropic's body as a chat request."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from runtime.facade.chat.fields import convert_body
from runtime.facade.chat.request import ChatRequest, Extension, ResponseFormat, SchemaFormat, ThinkingSwitch, Tokens
from runtime.facade.messages.blocks import BlockMessage, join_system, translate_messages
from schemas.chat import MAX_STOPS
from schemas.errors import InvalidInput

UNSERVED: dict[str, tuple[Any, ...]] = {
    "container": (None,),
    "mcp_servers": (None, []),
    "thread": (None,),
}
"""Fields that would change the answer and are not served, each with the values that ask for nothing."""

TOOL_TYPES = (None, "custom")
"""Types of the tools that the client runs itself; Anthropic's servers know more of them."""

CHOICES = {"auto": "auto", "any": "required", "none": "none"}
"""What ``tool_choice`` may be beside one tool, each with the name that a chat request has for it."""


class ThinkingConfig(Struct, frozen=True, kw_only=True):
    """Whether the model reasons before it answers; ``display`` "omitted" leaves the reasoning out of the reply."""

    type: Literal["enabled", "disabled", "adaptive", "between_tools"]
    display: Literal["summarized", "omitted"] | None = None

    @property
    def wanted(self) -> bool:
        """Whether reasoning is asked for."""
        return self.type != "disabled"


class JsonOutput(Struct, frozen=True, kw_only=True):
    """A JSON Schema that the answer follows."""

    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(Struct, frozen=True, kw_only=True):
    """How much effort an answer is worth, and its format."""

    effort: str | None = None
    format: JsonOutput | None = None


class ClientTool(Struct, frozen=True, kw_only=True):
    """A tool that the client runs."""

    name: str
    description: str | None = None
    input_schema: dict[str, Any]


class ToolPreference(Struct, frozen=True, kw_only=True):
    """``tool_choice``: which tools may or must be called, and whether one answer may call several."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class CountedMessages(Struct, frozen=True, kw_only=True):
    """The body of ``POST /v1/messages/count_tokens``: what becomes the prompt."""

    model: str | None = None
    messages: list[BlockMessage]
    system: str | list[dict[str, Any]] | None = None
    thinking: ThinkingConfig | None = None
    tool_choice: ToolPreference | None = None
    tools: list[dict[str, Any]] | None = None
    output_config: OutputConfig | None = None
    output_format: JsonOutput | None = None
    container: Any = None
    mcp_servers: Any = None
    thread: Any = None
    kiki: Extension = Extension()


class MessagesRequest(CountedMessages, frozen=True, kw_only=True):
    """The body of ``POST /v1/messages``. Ranges are those of Anthropic's reference; ``kiki`` is beside it."""

    max_tokens: Tokens | None = None
    temperature: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    top_p: Annotated[float, Meta(ge=0.0, le=1.0)] | None = None
    top_k: Annotated[int, Meta(ge=-1)] | None = None
    stop_sequences: Annotated[list[str], Meta(max_length=MAX_STOPS)] | None = None
    stream: bool | None = None
    metadata: dict[str, Any] | None = None


def translate_request(body: MessagesRequest) -> ChatRequest:
    """The body as a chat request.

    Raises:
        InvalidInput: a field is wrong or not served; ``param`` names it.
    """
    user = (body.metadata or {}).get("user_id")
    return msgspec.structs.replace(
        translate_prompt(body),
        max_tokens=body.max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        stop=body.stop_sequences,
        stream=body.stream,
        metadata=body.metadata,
        user=None if user is None else str(user),
    )


def translate_prompt(body: CountedMessages) -> ChatRequest:
    """The fields of a body that make its prompt, as a chat request.

    Raises:
        InvalidInput: a field is wrong or not served; ``param`` names it.
    """
    for name, neutral in UNSERVED.items():
        if getattr(body, name) not in neutral:
            raise InvalidInput(f"'{name}' is not supported: leave it out.", param=name)
    output = body.output_config or OutputConfig()
    choice = body.tool_choice
    return ChatRequest(
        model=body.model,
        messages=translate_messages(body.messages),
        system=join_system(body.system),
        tools=[_translate_tool(tool, f"tools[{index}]") for index, tool in enumerate(body.tools or ())],
        tool_choice=None if choice is None else _translate_choice(choice),
        parallel_tool_calls=False if choice is not None and choice.disable_parallel_tool_use else None,
        thinking=_translate_thinking(body.thinking),
        reasoning_effort="xhigh" if output.effort == "max" else output.effort,
        response_format=_translate_format(output.format or body.output_format),
        kiki=_show_thinking(body),
    )


def _translate_tool(tool: dict[str, Any], where: str) -> dict[str, Any]:
    if tool.get("type") not in TOOL_TYPES:
        raise InvalidInput(
            f"a tool of type {tool['type']!r} is not served here: send tools that you run yourself, with an "
            "'input_schema'.",
            param=f"{where}.type",
        )
    spec = convert_body(tool, ClientTool, where=where)
    function = {"name": spec.name, "description": spec.description, "parameters": spec.input_schema}
    return {"type": "function", "function": function}


def _translate_choice(choice: ToolPreference) -> str | dict[str, Any]:
    if choice.type != "tool":
        return CHOICES[choice.type]
    if choice.name is None:
        raise InvalidInput("'tool_choice' of type 'tool' needs the tool's 'name'.", param="tool_choice.name")
    return {"type": "function", "function": {"name": choice.name}}


def _translate_thinking(thinking: ThinkingConfig | None) -> ThinkingSwitch | None:
    return None if thinking is None else ThinkingSwitch(type="enabled" if thinking.wanted else "disabled")


def _translate_format(output: JsonOutput | None) -> ResponseFormat | None:
    if output is None:
        return None
    return ResponseFormat(type="json_schema", json_schema=SchemaFormat(schema=output.schema))


def _show_thinking(body: CountedMessages) -> Extension:
    """The field ``kiki``. Reasoning is shown when it is asked for: clients read the first block as the answer."""
    if body.kiki.thinking is not None:
        return body.kiki
    thinking = body.thinking
    is_shown = thinking is not None and thinking.wanted and thinking.display != "omitted"
    return msgspec.structs.replace(body.kiki, thinking=is_shown)
