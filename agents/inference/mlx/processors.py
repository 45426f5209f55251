"""Changes a row's logits before its token is drawn: penalties, biases, a JSON schema.

Each is a processor in mlx-lm's sense, ``(context, logits) -> logits`` with token ids (tokens,) and logits
(1, vocabulary), with state of its own for one row. The first call's context ends with the prompt's last token.
"""

from collections.abc import Callable, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from schemas.chat import Sampling
from schemas.errors import InvalidInput

Processor = Callable[[mx.array, mx.array], mx.array]


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
    """JSON Schemas compiled for one tokenizer by llguidance; its tables are built at the first use. Safe on any
    thread."""

    def __init__(self, tokenizer: Any, *, eos: Sequence[int]) -> None:
        self._tokenizer, self._eos = tokenizer, sorted(eos)
        self._tokenizers: dict[int, Any] = {}

    def check(self, schema: str) -> None:
        """Refuse a schema that cannot be compiled.

        Raises:
            InvalidInput: llguidance's reason.
        """
        import llguidance

        try:
            grammar = llguidance.LLMatcher.grammar_from_json_schema(schema)
            reason = llguidance.LLMatcher.validate_grammar(grammar, self._tokenizer_for(None))
        except (ValueError, TypeError) as error:
            reason = str(error)
        if reason:
            raise InvalidInput(f"the JSON schema cannot be served: {reason.splitlines()[0]}", param="response_format")

    def constraint(self, schema: str) -> Processor:
        """A processor that lets only tokens through that can still become JSON of this schema."""
        return _Constraint(schema, self._tokenizer_for)

    def _tokenizer_for(self, vocabulary: int | None) -> Any:
        from llguidance.hf import from_tokenizer

        size = max(vocabulary or 0, len(self._tokenizer))
        if size not in self._tokenizers:
            self._tokenizers[size] = from_tokenizer(self._tokenizer, n_vocab=size, eos_token=list(self._eos))
        return self._tokenizers[size]


class _Constraint:
    def __init__(self, schema: str, tokenizer_for: Callable[[int | None], Any]) -> None:
        self._schema, self._tokenizer_for = schema, tokenizer_for
        self._matcher: Any = None

    def __call__(self, context: mx.array, logits: mx.array) -> mx.array:
        from llguidance import LLMatcher
        from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask

        if self._matcher is None:
            self._matcher = LLMatcher(
                self._tokenizer_for(logits.shape[-1]), LLMatcher.grammar_from_json_schema(self._schema)
            )
            self._mask = allocate_token_bitmask(1, logits.shape[-1])
        elif not self._matcher.is_stopped():
            self._matcher.consume_token(int(context[-1]))
        fill_next_token_bitmask(self._matcher, self._mask, 0)
        is_allowed = np.unpackbits(self._mask[0].view(np.uint8), bitorder="little")[: logits.shape[-1]].astype(bool)
        masked_logits: mx.array = mx.where(mx.array(is_allowed), logits, -float("inf"))
        return masked_logits


def make_processors(sampling: Sampling, prompt: Sequence[int], grammars: Grammars) -> list[Processor]:
    """One row's processors; none when the sampling needs none."""
    row_processors: list[Processor] = []
    plain = sampling.repetition_penalty == 1.0 and not sampling.presence_penalty and not sampling.frequency_penalty
    if not plain or sampling.logit_bias:
        row_processors.append(Penalties(sampling, prompt))
    if sampling.json_schema is not None:
        row_processors.append(grammars.constraint(sampling.json_schema))
    return row_processors


def top_tokens(logprobs: mx.array, count: int) -> list[tuple[int, float]]:
    """The ``count`` likeliest tokens of (vocabulary,) log-probabilities, the likeliest first."""
    array = np.array(logprobs, np.float32)
    best = np.argsort(-array, kind="stable")[:count]
    return [(int(token), float(array[token])) for token in best]
