"""Changes a row's logits before its token is drawn: penalties, biases, a grammar.

Each is a processor in mlx-lm's sense, ``(context, logits) -> logits`` with token ids (tokens,) and logits
(1, vocabulary), with state of its own for one row. The first call's context ends with the prompt's last token.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from agents.inference.json_schema.grammar import answer_grammar, arguments_grammar, calls_grammar
from agents.inference.json_schema.keys import JsonPlace, QuotedTokens
from agents.inference.json_schema.references import SchemaFault
from agents.inference.tools import callable_tools
from bus.metrics import count_degraded
from schemas.chat import Sampling, Tool, Tooling
from schemas.errors import InvalidInput

LARGEST_DEDUCTION = 1e4
"""What is taken from a logit at most, so that it stays a number in 16 bits however often its token came."""

Processor = Callable[[mx.array, mx.array], mx.array]

_WHERE = re.compile(r"^at \d+\(\d+\): (failed to compile JSON schema: )?")
"""What llguidance puts before its reason: the place in the grammar, which the client never saw."""


class Penalties:
    """Repetition penalty (arXiv 1909.05858) over prompt and answer; presence and frequency penalty over the answer.

    The bias of a token is added last. Counted on the device, so that decoding does not wait for the counts.
    """

    def __init__(self, sampling: Sampling, prompt: Sequence[int]) -> None:
        self._sampling = sampling
        self._prompt = mx.array(sorted(set(prompt)), mx.uint32)
        self._counts: mx.array | None = None
        self._seen: mx.array
        self._bias: mx.array

    def __call__(self, context: mx.array, logits: mx.array) -> mx.array:
        """Logits after penalties and biases."""
        if self._counts is None:
            self._begin(logits.shape[-1])
        else:
            self._counts = self._counts.at[context[-1:]].add(1.0)
        counts, sampling = self._counts, self._sampling
        assert counts is not None
        if sampling.repetition_penalty != 1.0:
            penalty = sampling.repetition_penalty
            worse = mx.where(logits > 0, logits / penalty, logits * penalty)
            logits = mx.where((counts > 0) | self._seen, worse, logits)
        deduction = sampling.frequency_penalty * counts + sampling.presence_penalty * (counts > 0)
        deduction = mx.clip(deduction, -LARGEST_DEDUCTION, LARGEST_DEDUCTION)
        changed: mx.array = logits - deduction.astype(logits.dtype) + self._bias.astype(logits.dtype)
        return changed

    def _begin(self, vocabulary: int) -> None:
        self._counts = mx.zeros((vocabulary,))
        self._seen = mx.zeros((vocabulary,), mx.bool_).at[self._prompt].add(True)
        self._bias = mx.zeros((vocabulary,))
        for token, bias in self._sampling.logit_bias.items():
            if int(token) < vocabulary:
                self._bias[int(token)] = bias


class Grammars:
    """Grammars compiled for one tokenizer by llguidance; its tables are built at the first use. Safe on any thread."""

    def __init__(self, tokenizer: Any, *, eos: Sequence[int]) -> None:
        self._tokenizer, self._eos = tokenizer, sorted(eos)
        self._tokenizers: dict[int, tuple[Any, QuotedTokens]] = {}

    def of_answer(self, schema: str) -> str:
        """The grammar of an answer that follows a JSON Schema.

        Raises:
            InvalidInput: the schema cannot be served.
        """
        try:
            grammar = answer_grammar(schema)
            self._compile(grammar)
        except SchemaFault as fault:
            raise InvalidInput(f"the JSON schema cannot be served: {fault}.", param="response_format") from fault
        return grammar

    def of_calls(self, tooling: Tooling) -> str:
        """The grammar of the calls that an answer must consist of: of one, or with ``parallel`` of more where any tool
        may be called.

        Raises:
            InvalidInput: a tool's parameters cannot be served; the text names the tool.
        """
        tools = callable_tools(tooling)
        try:
            for tool in tools:
                self._compile_arguments(tool)
            grammar = calls_grammar(tools, several=tooling.parallel and tooling.forced is None)
            self._compile(grammar)
        except SchemaFault as fault:
            raise InvalidInput(f"a tool cannot be called: {fault}.", param="tools") from fault
        return grammar

    def constraint(self, grammar: str) -> Processor:
        """A processor that lets only tokens through that can still become a text of this grammar, in which no JSON
        object has a key twice."""
        return _Constraint(grammar, self._tables)

    def _compile_arguments(self, tool: Tool) -> None:
        grammar = arguments_grammar(tool)
        try:
            self._compile(grammar)
        except SchemaFault as fault:
            raise SchemaFault(f"the parameters of '{tool.name}': {fault}") from fault

    def _compile(self, grammar: str) -> None:
        from llguidance import LLMatcher

        tokenizer, _ = self._tables(None)
        if reason := LLMatcher.validate_grammar(LLMatcher.grammar_from_lark(grammar), tokenizer):
            raise SchemaFault(_WHERE.sub("", reason.splitlines()[0]))

    def _tables(self, vocabulary: int | None) -> tuple[Any, QuotedTokens]:
        """llguidance's tokenizer for logits of so many entries, and the tokens with a quotation mark."""
        from llguidance.hf import from_tokenizer

        known = len(self._tokenizer)
        size = max(vocabulary or 0, known)
        if size not in self._tokenizers:
            tokenizer = from_tokenizer(self._tokenizer, n_vocab=size, eos_token=list(self._eos))
            self._tokenizers[size] = tokenizer, QuotedTokens(tokenizer.decode_bytes([token]) for token in range(known))
        return self._tokenizers[size]


class _Constraint:
    def __init__(self, grammar: str, tables: Callable[[int | None], tuple[Any, QuotedTokens]]) -> None:
        self._grammar, self._tables = grammar, tables
        self._matcher: Any = None
        self._tokenizer: Any = None
        self._quoted: QuotedTokens
        self._place = JsonPlace()

    def __call__(self, context: mx.array, logits: mx.array) -> mx.array:
        from llguidance.numpy import fill_next_token_bitmask

        if self._matcher is None:
            self._begin(logits.shape[-1])
        elif not self._matcher.is_stopped():
            self._take(int(context[-1]))
        fill_next_token_bitmask(self._matcher, self._mask, 0)
        is_allowed = np.unpackbits(self._mask[0].view(np.uint8), bitorder="little")[: logits.shape[-1]].astype(bool)
        self._forbid_repeated_keys(is_allowed)
        masked_logits: mx.array = mx.where(mx.array(is_allowed), logits, -float("inf"))
        return masked_logits

    def _begin(self, vocabulary: int) -> None:
        from llguidance import LLMatcher
        from llguidance.numpy import allocate_token_bitmask

        self._tokenizer, self._quoted = self._tables(vocabulary)
        self._matcher = LLMatcher(self._tokenizer, LLMatcher.grammar_from_lark(self._grammar))
        self._mask = allocate_token_bitmask(1, vocabulary)

    def _take(self, token: int) -> None:
        self._matcher.consume_token(token)
        self._place = self._place.after(self._tokenizer.decode_bytes([token])) or self._place

    def _forbid_repeated_keys(self, is_allowed: np.ndarray) -> None:
        repeating = [token for token in self._quoted.repeat_key(self._place) if is_allowed[token]]
        is_allowed[repeating] = False
        if repeating and not is_allowed.any():
            count_degraded("grammar.repeated_key", "a schema's pattern allows no further key: one is repeated")
            is_allowed[repeating] = True


def make_processors(
    sampling: Sampling, prompt: Sequence[int], grammars: Grammars, grammar: str | None
) -> list[Processor]:
    """One row's processors, with the ``grammar`` that its answer follows; none when the sampling needs none."""
    row_processors: list[Processor] = []
    plain = sampling.repetition_penalty == 1.0 and not sampling.presence_penalty and not sampling.frequency_penalty
    if not plain or sampling.logit_bias:
        row_processors.append(Penalties(sampling, prompt))
    if grammar is not None:
        row_processors.append(grammars.constraint(grammar))
    return row_processors


def top_tokens(logprobs: mx.array, count: int) -> list[tuple[int, float]]:
    """The ``count`` likeliest tokens of (vocabulary,) log-probabilities, the likeliest first."""
    array = np.array(logprobs, np.float32)
    best = np.argsort(-array, kind="stable")[:count]
    return [(int(token), float(array[token])) for token in best]
