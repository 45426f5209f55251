"""One candidate while the upstream sends it: takes chunks, gives back text, and sums up the result."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from agents.inference.text import Piece, TextFilter, attach_tokens
from agents.inference.vocabulary import LEAST_LOGPROB, make_token
from bus.metrics import count_degraded
from schemas.base import UNREADABLE
from schemas.chat import ToolCall, Usage
from schemas.errors import StageFailed, Unavailable
from schemas.findings import AdapterUse, Candidate, FinishReason, LikelyToken, TokenLogprob

UNKNOWN_LOGPROB = -1.0
"""Mean log-probability that stands for an answer whose upstream reports none: neither confident nor doubtful."""
FINISH: Mapping[str, FinishReason] = {"stop": "stop", "length": "length", "tool_calls": "tool_calls"}


class Answer:
    """The answer to one call, which is one candidate; ``index`` is its number.

    ``stops`` and reasoning are filtered here too, whatever the server does. ``with_tokens``: the tokens with their
    log-probabilities are asked for.
    """

    def __init__(self, *, index: int, seed: int, text_filter: TextFilter, with_tokens: bool = False) -> None:
        self.index, self._seed = index, seed
        self._filter, self._with_tokens = text_filter, with_tokens
        self._parts, self._told, self._is_cut, self._has_ended = 0, 0, False, False
        self._texts: dict[str, list[str]] = {"content": [], "reasoning": []}
        self._tokens: list[TokenLogprob] = []
        self._logprobs: list[float] = []
        self._calls: dict[int, dict[str, str]] = {}
        self._finish: str | None = None
        self._usage: Usage | None = None

    def take(self, reply: Mapping[str, Any]) -> list[Piece]:
        """Take a chunk of a stream, or a whole reply (as dictionaries); returns the text that cannot change any
        more."""
        if (usage := reply.get("usage")) is not None:
            prompt, completion = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
            self._usage = Usage(prompt_tokens=prompt, completion_tokens=completion)
        pieces: list[Piece] = []
        for choice in (reply.get("choices") or ())[:1]:
            message = choice.get("delta") or choice.get("message") or {}
            pieces += self._read_message(message)
            self._count_tokens(((choice.get("logprobs") or {}).get("content")) or ())
            self._finish = choice.get("finish_reason") or self._finish
        return self._pass_on(pieces)

    @property
    def stopped(self) -> bool:
        """Whether a stop string came; the rest of the stream is not needed then."""
        return self._filter.stopped

    def end(self) -> list[Piece]:
        """The text that was held back, once the upstream has ended.

        Raises:
            Unavailable: it ended without a finish reason: it died.
            StageFailed: its finish reason means that there is no answer.
        """
        if self.stopped:
            self._finish = "stop"
        if self._finish is None:
            raise Unavailable("the upstream ended in the middle of an answer.")
        if self._finish not in FINISH:
            raise StageFailed(f"the upstream ended with '{self._finish}'.", code="upstream_refused")
        self._has_ended = True
        return self._pass_on(self._filter.finish())

    @property
    def has_begun(self) -> bool:
        """Whether anything of the answer has come."""
        return self._parts > 0

    def cut(self) -> list[Piece]:
        """End here, because the time is over, and return the text that was held back; nothing if it has ended."""
        if self._has_ended:
            return []
        self._finish, self._is_cut, self._has_ended = "length", True, True
        return self._pass_on(self._filter.finish())

    def candidate(self, *, adapters: tuple[AdapterUse, ...]) -> Candidate:
        """The finished candidate; usage or log-probabilities that the upstream did not send are counted.

        Of an answer that was cut the usage never came: then the parts of the stream count as tokens.
        """
        if self._is_cut and self._usage is None:
            self._usage = Usage(completion_tokens=max(self._parts, len(self._logprobs)))
        if self._usage is None:
            count_degraded("upstream.usage", "the upstream sends no usage; its tokens are counted as none")
        if not self._logprobs:
            count_degraded(
                "upstream.logprob", f"the upstream sends no log-probabilities; {UNKNOWN_LOGPROB} stands for them"
            )
        calls = self._convert_calls()
        finish = FINISH[self._finish or "stop"]
        mean = sum(self._logprobs) / len(self._logprobs) if self._logprobs else UNKNOWN_LOGPROB
        return Candidate(
            text="".join(self._texts["content"]),
            reasoning="".join(self._texts["reasoning"]),
            adapters=adapters,
            logprob=mean,
            finish_reason="tool_calls" if calls and finish == "stop" else finish,
            usage=self._usage or Usage(),
            seed=self._seed,
            tool_calls=calls,
            tokens=tuple(self._tokens) if self._with_tokens else (),
        )

    def _pass_on(self, pieces: list[Piece]) -> list[Piece]:
        for piece in pieces:
            self._texts[piece.kind].append(piece.text)
        if self._with_tokens:
            pieces = attach_tokens(pieces, self._tokens[self._told :], ended=self._has_ended)
            self._told += sum(len(piece.tokens) for piece in pieces)
        return pieces

    def _read_message(self, message: Mapping[str, Any]) -> list[Piece]:
        pieces: list[Piece] = []
        reasoning = message.get("reasoning_content") or message.get("reasoning")
        if reasoning:
            pieces.append(Piece("reasoning", str(reasoning)))
        for position, call in enumerate(message.get("tool_calls") or ()):
            self._join_call(call, position)
        self._parts += bool(reasoning or message.get("content") or message.get("tool_calls"))
        if message.get("content"):
            pieces += self._filter.feed(str(message["content"]))
        return pieces

    def _join_call(self, call: Mapping[str, Any], position: int) -> None:
        """Add a part of a call: a stream sends the name once and the arguments in pieces."""
        index = call.get("index")
        entry = self._calls.setdefault(
            position if index is None else int(index), {"id": "", "name": "", "arguments": ""}
        )
        function = call.get("function") or {}
        entry["id"] = entry["id"] or str(call.get("id") or "")
        entry["name"] += str(function.get("name") or "")
        entry["arguments"] += str(function.get("arguments") or "")

    def _convert_calls(self) -> tuple[ToolCall, ...]:
        """The tool calls; one that cannot be read is left out, and counted unless the token budget cut it off."""
        calls = []
        for _, call in sorted(self._calls.items()):
            try:
                msgspec.json.decode(call["arguments"], type=dict)
                calls.append(msgspec.convert(call, ToolCall))
            except UNREADABLE as error:
                if self._finish == "length":
                    continue
                count_degraded("tools.malformed", f"the upstream sent a call that cannot be read: {error}")
        return tuple(calls)

    def _count_tokens(self, entries: Sequence[Mapping[str, Any]]) -> None:
        for entry in entries:
            if not is_number(entry.get("logprob")):
                continue
            self._logprobs.append(float(entry["logprob"]))
            token = _read_token(entry)
            self._tokens.append(
                TokenLogprob(token=token.token, logprob=token.logprob, bytes=token.bytes, top=likeliest(entry))
            )


def is_number(logprob: Any) -> bool:
    """Whether an upstream's log-probability is there and finite; one that is not finite is counted."""
    if logprob is None or math.isfinite(float(logprob)):
        return logprob is not None
    count_degraded("upstream.not_finite", f"the upstream sends the log-probability {logprob}; it is left out")
    return False


def likeliest(entry: Mapping[str, Any]) -> tuple[LikelyToken, ...]:
    """The likeliest tokens at a drawn token's place, sorted, because some servers send them unsorted."""
    alternatives = [_read_token(alternative) for alternative in entry.get("top_logprobs") or ()]
    possible = [token for token in alternatives if token.logprob > LEAST_LOGPROB]
    return tuple(sorted(possible, key=lambda alternative: -alternative.logprob))


def read_tokens(reply: Mapping[str, Any]) -> list[TokenLogprob]:
    """The tokens of a whole reply; one without a log-probability has nothing before it."""
    entries = [{**entry, "logprob": entry.get("logprob") or 0.0} for entry in token_entries(reply)]
    tokens = [(_read_token(entry), likeliest(entry)) for entry in entries]
    return [TokenLogprob(token=token.token, logprob=token.logprob, bytes=token.bytes, top=top) for token, top in tokens]


def chat_form(reply: Mapping[str, Any]) -> dict[str, Any]:
    """A reply or a chunk of ``/v1/completions`` in the form that a chat's has."""
    choices = [
        {
            "finish_reason": choice.get("finish_reason"),
            "message": {"content": choice.get("text")},
            "logprobs": {"content": _chat_entries(choice.get("logprobs") or {})},
        }
        for choice in reply.get("choices") or ()
    ]
    return {**reply, "choices": choices}


def _chat_entries(logprobs: Mapping[str, Any]) -> list[dict[str, Any]]:
    tokens, values = logprobs.get("tokens") or (), logprobs.get("token_logprobs") or ()
    tops = logprobs.get("top_logprobs") or [None] * len(tokens)
    return [
        {
            "token": token,
            "logprob": value,
            "top_logprobs": [{"token": other, "logprob": logprob} for other, logprob in (top or {}).items()],
        }
        for token, value, top in zip(tokens, values, tops, strict=False)
    ]


def _read_token(entry: Mapping[str, Any]) -> LikelyToken:
    """A token as the server says it, with its bytes where they are no text."""
    own = entry.get("bytes")
    is_readable = isinstance(own, list) and all(isinstance(byte, int) and 0 <= byte < 256 for byte in own)
    return make_token(
        str(entry.get("token") or ""), float(entry["logprob"]), bytes(own) if own and is_readable else None
    )


def token_entries(reply: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The log-probability entries of the drawn tokens in a reply or chunk; empty where the server sends none."""
    choices = (reply or {}).get("choices") or []
    return list(((choices[0].get("logprobs") or {}).get("content") or ()) if choices else ())
