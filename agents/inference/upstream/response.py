"""One candidate while the upstream sends it: takes chunks, gives back text, and sums up the result."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from agents.inference.text import Piece, TextFilter
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

    ``stops`` and reasoning are filtered here too, whatever the server does. ``thinking``: the content begins within the
    reasoning.
    """

    def __init__(self, *, index: int, seed: int, stops: Sequence[str], thinking: bool = False) -> None:
        self.index, self._seed = index, seed
        self._filter = TextFilter(stops=stops, begins="reasoning" if thinking else "content")
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
        for piece in pieces:
            self._texts[piece.kind].append(piece.text)
        return pieces

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
        pieces = self._filter.finish()
        for piece in pieces:
            self._texts[piece.kind].append(piece.text)
        return pieces

    def candidate(self, *, adapters: tuple[AdapterUse, ...], with_tokens: bool) -> Candidate:
        """The finished candidate; usage or log-probabilities that the upstream did not send are counted."""
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
            tokens=tuple(self._tokens) if with_tokens else (),
        )

    def _read_message(self, message: Mapping[str, Any]) -> list[Piece]:
        pieces: list[Piece] = []
        reasoning = message.get("reasoning_content") or message.get("reasoning")
        if reasoning:
            pieces.append(Piece("reasoning", str(reasoning)))
        for position, call in enumerate(message.get("tool_calls") or ()):
            self._join_call(call, position)
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
            if entry.get("logprob") is None:
                continue
            self._logprobs.append(float(entry["logprob"]))
            token = str(entry.get("token") or "")
            self._tokens.append(TokenLogprob(token=token, logprob=float(entry["logprob"]), top=likeliest(entry)))


def likeliest(entry: Mapping[str, Any]) -> tuple[LikelyToken, ...]:
    """The likeliest tokens at a drawn token's place, sorted, because some servers send them unsorted."""
    pairs = [
        (str(alternative.get("token") or ""), float(alternative["logprob"]))
        for alternative in entry.get("top_logprobs") or ()
    ]
    possible = [LikelyToken(token=token, logprob=logprob) for token, logprob in pairs if logprob > -1e30]
    return tuple(sorted(possible, key=lambda alternative: -alternative.logprob))


def token_entries(reply: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The log-probability entries of the drawn tokens in a reply or chunk; empty where the server sends none."""
    choices = (reply or {}).get("choices") or []
    return list(((choices[0].get("logprobs") or {}).get("content") or ()) if choices else ())
