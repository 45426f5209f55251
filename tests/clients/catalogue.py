"""The stock clients: what each is, how it is pinned, what its program checks, and which checks every run has."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

FOLDER = Path(__file__).parent

Language = Literal["Python", "Node", "Go", "Java", "Rust"]

_PINS: dict[Language, str] = {
    "Python": r"^{}==(\S+)$",
    "Node": r'"{}": "([^"]+)"',
    "Go": r"^\s*(?:require )?{} v(\S+)",
    "Java": r"<artifactId>{}</artifactId>\s*<version>([^<]+)<",
    "Rust": r'^{} = \{{ version = "=([^"]+)"',
}
"""How a language's lock file names the version of a package."""


@dataclass(frozen=True, kw_only=True)
class StockClient:
    """A client as its authors publish it, and the program that tries it.

    Attributes:
        name: how tests and documentation call it; unique.
        package: its name in its registry, which ``lock`` pins.
        program: the file with the checks, below this folder.
        lock: the file that pins the versions.
        core: the checks that every run of the tests has; the others are for ``make soak``.
        covers: what the checks try, for the documentation.
    """

    name: str
    language: Language
    package: str
    program: str
    lock: str
    covers: str
    core: tuple[str, ...] = ()

    @property
    def checks(self) -> tuple[str, ...]:
        """The names of the program's checks, in its order."""
        return tuple(re.findall(r'\bcheck\(\s*"([^"]+)"', (FOLDER / self.program).read_text(encoding="utf-8"), re.I))

    @property
    def version(self) -> str:
        """The version that is tried."""
        pin = re.search(
            _PINS[self.language].format(re.escape(self.package)), (FOLDER / self.lock).read_text("utf-8"), re.M
        )
        assert pin, f"{self.lock} does not pin {self.package}"
        return pin[1]


def python(name: str, module: str, covers: str, *, package: str = "", core: tuple[str, ...] = ()) -> StockClient:
    """A client for Python; ``module`` names its program and its lock."""
    return StockClient(
        name=name,
        language="Python",
        package=package or name,
        program=f"python/{module}_client.py",
        lock=f"python/locks/{module}.txt",
        covers=covers,
        core=core,
    )


CLIENTS = (
    python(
        "openai",
        "openai",
        "models, chat, streams, parse, tools, logprobs, embeddings, completions, responses, errors, retries",
        core=(
            "models",
            "chat",
            "usage within max_tokens",
            "stream with usage",
            "parse a nested model",
            "logprobs",
            "two choices",
            "forced call of a nested model",
            "forced call without parameters",
            "fields that change nothing",
            "embeddings",
            "completions",
            "responses",
            "responses from a stream",
            "responses go on from the one before",
            "typed errors",
            "prompt too long for a stream",
            "error late in a stream",
            "closed stream leaves no work",
        ),
    ),
    python(
        "anthropic",
        "anthropic",
        "messages, streams, tools, parse, count_tokens, errors",
        core=("message", "message from a stream", "forced call", "count tokens", "typed errors"),
    ),
    python(
        "langchain-openai",
        "langchain",
        "invoke, stream, batch, structured output, tools, responses, embeddings, context overflow",
        core=(
            "invoke",
            "stream with usage",
            "structured output by function",
            "embeddings",
            "context overflow is recognised",
        ),
    ),
    python(
        "litellm", "litellm", "its openai/ and anthropic/ prefixes, context window errors, aider's calls, responses"
    ),
    python("llama-index-llms-openai-like", "llama_index", "chat, completions, tools, nested models, responses"),
    python("pydantic-ai", "pydantic_ai", "runs, streams, models by function and by schema", package="pydantic-ai-slim"),
    python("instructor", "instructor", "tools, schema, partial models from a stream"),
    python("llm", "llm", "its command: prompts, conversations, schemas, tools"),
    python("openai-agents", "agents", "agents over chat and over responses, tools, output types"),
    python("smolagents", "smolagents", "generate, stream, tools"),
    python("Open WebUI", "open_webui", "its requests: chat, titles, tags, embeddings", package="httpx"),
    StockClient(
        name="openai (Node)",
        language="Node",
        package="openai",
        program="node/openai.mjs",
        lock="node/package.json",
        covers="chat, streams, parse with zod, runTools, embeddings, responses, aborts, time-outs",
        core=(
            "chat",
            "stream with usage",
            "parse a nested model",
            "run tools",
            "responses from a stream",
            "typed errors",
            "prompt too long for a stream",
            "aborted stream leaves no work",
        ),
    ),
    StockClient(
        name="ai with @ai-sdk/openai",
        language="Node",
        package="@ai-sdk/openai",
        program="node/ai_sdk.mjs",
        lock="node/package.json",
        covers="Vercel's AI SDK over responses and chat: text, streams, objects, tools in steps, embeddings",
    ),
    StockClient(
        name="ai with @ai-sdk/openai-compatible",
        language="Node",
        package="@ai-sdk/openai-compatible",
        program="node/ai_sdk_compatible.mjs",
        lock="node/package.json",
        covers="Vercel's AI SDK over chat: text, streams, objects, tools in steps, embeddings",
    ),
    StockClient(
        name="@anthropic-ai/sdk",
        language="Node",
        package="@anthropic-ai/sdk",
        program="node/anthropic.mjs",
        lock="node/package.json",
        covers="messages, streams, tools, countTokens, aborts",
    ),
    StockClient(
        name="openai-go",
        language="Go",
        package="github.com/openai/openai-go/v3",
        program="go/openai_go/main.go",
        lock="go/go.mod",
        covers="chat, streams, schemas, tools, embeddings, completions, responses, errors, contexts",
    ),
    StockClient(
        name="go-openai",
        language="Go",
        package="github.com/sashabaranov/go-openai",
        program="go/go_openai/main.go",
        lock="go/go.mod",
        covers="chat, streams, schemas, tools, embeddings, completions, errors, also late in a stream",
    ),
    StockClient(
        name="langchaingo",
        language="Go",
        package="github.com/tmc/langchaingo",
        program="go/langchaingo/main.go",
        lock="go/go.mod",
        covers="text, streams, JSON, tools, embeddings, prompts that are too long",
    ),
    StockClient(
        name="eino-ext",
        language="Go",
        package="github.com/cloudwego/eino-ext/components/model/openai",
        program="go/eino/main.go",
        lock="go/go.mod",
        covers="text, streams, tools, errors late in a stream",
    ),
    StockClient(
        name="openai-java",
        language="Java",
        package="openai-java",
        program="java/openai_java/OpenAiJava.java",
        lock="java/openai_java/pom.xml",
        covers="chat, streams, classes, tools, embeddings, completions, responses, each validated",
    ),
    StockClient(
        name="langchain4j",
        language="Java",
        package="langchain4j-open-ai",
        program="java/langchain4j/LangChain4j.java",
        lock="java/langchain4j/pom.xml",
        covers="chat, streams, schemas, tools, embeddings, prompts that are too long",
    ),
    StockClient(
        name="Spring AI",
        language="Java",
        package="spring-ai-openai",
        program="java/spring_ai/SpringAi.java",
        lock="java/spring_ai/pom.xml",
        covers="chat, streams, records, tools, embeddings, prompts that are too long",
    ),
    StockClient(
        name="async-openai",
        language="Rust",
        package="async-openai",
        program="rust/src/main.rs",
        lock="rust/Cargo.toml",
        covers="chat, streams, schemas, tools, embeddings, completions, responses, errors",
    ),
)
