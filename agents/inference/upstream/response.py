"""One candidate while the upstream sends it: deltas in, certain text out, and the sums that make its result."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from agents.inference.text import Piece, TextFilter
from bus.metrics import degraded
from schemas.chat import ToolCall, Usage
from schemas.errors import StageFailed, Unavailable
from schemas.findings import AdapterUse, Candidate, FinishReason, LikelyToken, TokenLogprob

UNKNOWN_LOGPROB = -1.0
"""Mean log-probability of an answer whose upstream tells none: neither confident nor doubtful; ours."""
FINISH: Mapping[str, FinishReason] = {"stop": "stop", "length": "length", "tool_calls": "tool_calls"}


class Answer:
    """``index`` is the candidate's number; ``stops`` and reasoning are filtered here too, whatever the server does.

    ``thinking``: the content begins within the reasoning.
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
        """The text that is certain after a chunk of a stream, or a whole reply (as dictionaries)."""
        if (usage := reply.get("usage")) is not None:
            prompt, completion = usage.get("prompt_tokens") or 0, usage.get("completion_tokens") or 0
            self._usage = Usage(prompt_tokens=prompt, completion_tokens=completion)
        pieces: list[Piece] = []
        for choice in (reply.get("choices") or ())[:1]:
            said = choice.get("delta") or choice.get("message") or {}
            pieces += self._read(said)
            self._count(((choice.get("logprobs") or {}).get("content")) or ())
            self._finish = choice.get("finish_reason") or self._finish
        for piece in pieces:
            self._texts[piece.kind].append(piece.text)
        return pieces

    @property
    def stopped(self) -> bool:
        """Whether a stop string came, so that the rest need not be waited for."""
        return self._filter.stopped

    def end(self) -> list[Piece]:
        """The text that was held back, once the upstream has ended.

        Raises:
            Unavailable: it ended without saying why: it died.
            StageFailed: it ended for a reason that is no answer.
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

    def candidate(self, *, adapters: tuple[AdapterUse, ...], tell_tokens: bool) -> Candidate:
        """The finished candidate; what the upstream did not tell is counted."""
        if self._usage is None:
            degraded("upstream.usage", "the upstream tells no usage; its tokens are counted as none")
        if not self._logprobs:
            degraded("upstream.logprob", f"the upstream tells no log-probabilities; {UNKNOWN_LOGPROB} stands for them")
        calls = self._told_calls()
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
            tokens=tuple(self._tokens) if tell_tokens else (),
        )

    def _read(self, said: Mapping[str, Any]) -> list[Piece]:
        found: list[Piece] = []
        reasoning = said.get("reasoning_content") or said.get("reasoning")
        if reasoning:
            found.append(Piece("reasoning", str(reasoning)))
        for at, call in enumerate(said.get("tool_calls") or ()):
            self._join(call, at)
        if said.get("content"):
            found += self._filter.feed(str(said["content"]))
        return found

    def _join(self, call: Mapping[str, Any], at: int) -> None:
        """Part of a call: a stream sends its name once and its arguments in pieces."""
        index = call.get("index")
        known = self._calls.setdefault(at if index is None else int(index), {"id": "", "name": "", "arguments": ""})
        function = call.get("function") or {}
        known["id"] = known["id"] or str(call.get("id") or "")
        known["name"] += str(function.get("name") or "")
        known["arguments"] += str(function.get("arguments") or "")

    def _told_calls(self) -> tuple[ToolCall, ...]:
        """The calls; one that cannot be read is left out and counted."""
        found = []
        for _, call in sorted(self._calls.items()):
            try:
                msgspec.json.decode(call["arguments"], type=dict)
                found.append(msgspec.convert(call, ToolCall))
            except (msgspec.ValidationError, msgspec.DecodeError) as error:
                degraded("tools.malformed", f"the upstream told a call that is none: {error}")
        return tuple(found)

    def _count(self, entries: Sequence[Mapping[str, Any]]) -> None:
        for entry in entries:
            if entry.get("logprob") is None:
                continue
            self._logprobs.append(float(entry["logprob"]))
            token = str(entry.get("token") or "")
            self._tokens.append(TokenLogprob(token=token, logprob=float(entry["logprob"]), top=likeliest(entry)))


def likeliest(entry: Mapping[str, Any]) -> tuple[LikelyToken, ...]:
    """The likeliest tokens at the place of a drawn one, the likeliest first; some servers send them unsorted."""
    told = [(str(one.get("token") or ""), float(one["logprob"])) for one in entry.get("top_logprobs") or ()]
    possible = [LikelyToken(token=token, logprob=logprob) for token, logprob in told if logprob > -1e30]
    return tuple(sorted(possible, key=lambda one: -one.logprob))


def drawn(reply: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The entries of the drawn tokens in a reply or chunk; none where the server tells none."""
    choices = (reply or {}).get("choices") or []
    return list(((choices[0].get("logprobs") or {}).get("content") or ()) if choices else ())
