"""One candidate while it is decoded: takes its tokens, gives back its text, and sums up its result."""

from dataclasses import dataclass, field
from typing import Any

from agents.inference.text import Piece, TextFilter, attach_tokens
from agents.inference.tools import CallCollector
from schemas.chat import Usage
from schemas.findings import AdapterUse, Candidate, FinishReason, TokenLogprob


@dataclass(kw_only=True)
class DecodingRow:
    """A row of the batch, of ``budget`` tokens at most.

    ``detokenizer`` is mlx-lm's streaming one, ``eos`` the ids that end an answer.

    ``decoded`` counts every token that the model gave, the end-of-sequence token included; ``logprob`` sums their
    natural-log probabilities at temperature 1.
    """

    index: int
    budget: int
    seed: int
    detokenizer: Any
    filter: TextFilter
    eos: frozenset[int]
    calls: CallCollector | None = None
    decoded: int = 0
    logprob: float = 0.0
    tokens: list[TokenLogprob] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    _told: int = 0
    _texts: dict[str, list[str]] = field(default_factory=lambda: {"content": [], "reasoning": []})

    def take(self, token: int, logprob: float, *, last: bool) -> list[Piece]:
        """Take a token and return the text that cannot change any more; ``last``: the token budget ends here."""
        self.decoded += 1
        self.logprob += logprob
        is_end = token in self.eos
        pieces: list[Piece] = []
        if not is_end:
            self.detokenizer.add_token(token)
            pieces += self.filter.feed(self.detokenizer.last_segment)
        return self._pass_on(pieces, is_end=is_end, last=last)

    def cut(self) -> list[Piece]:
        """End here, because the time is over, and return the text that was held back; nothing if it has ended."""
        return [] if self.finish_reason is not None else self._pass_on([], is_end=False, last=True)

    def _pass_on(self, pieces: list[Piece], *, is_end: bool, last: bool) -> list[Piece]:
        """The pieces without tool calls, and at the end of the answer what was held back."""
        cut = last and not is_end and not self.filter.stopped
        if is_end or cut:
            self.detokenizer.finalize()
            pieces += self.filter.feed(self.detokenizer.last_segment)
            pieces += self.filter.finish(cut=cut)
        pieces = self._take_out_calls(pieces, cut=cut)
        ended = is_end or last or self.filter.stopped
        if ended and self.calls is not None and (rest := self.calls.finish(cut=cut)):
            pieces.append(Piece("content", rest))
        if is_end or self.filter.stopped:
            self.finish_reason = "tool_calls" if self.calls is not None and self.calls.tool_calls else "stop"
        elif last:
            self.finish_reason = "tool_calls" if self.calls is not None and self.calls.is_whole else "length"
        for piece in pieces:
            self._texts[piece.kind].append(piece.text)
        return self._attach_tokens(pieces)

    def _attach_tokens(self, pieces: list[Piece]) -> list[Piece]:
        pieces = attach_tokens(pieces, self.tokens[self._told :], ended=self.finish_reason is not None)
        self._told += sum(len(piece.tokens) for piece in pieces)
        return pieces

    def candidate(self, *, adapters: tuple[AdapterUse, ...], prompt_tokens: int, factor: float = 1.0) -> Candidate:
        """The finished candidate."""
        return Candidate(
            text="".join(self._texts["content"]),
            reasoning="".join(self._texts["reasoning"]),
            adapters=adapters,
            factor=factor,
            logprob=self.logprob / max(1, self.decoded),
            finish_reason=self.finish_reason or "length",
            usage=Usage(prompt_tokens=prompt_tokens, completion_tokens=self.decoded),
            seed=self.seed,
            tool_calls=tuple(self.calls.tool_calls) if self.calls is not None else (),
            tokens=tuple(self.tokens),
        )

    def _take_out_calls(self, pieces: list[Piece], *, cut: bool) -> list[Piece]:
        """Read the tool calls among ``pieces``, of which the last may be ``cut`` off; return the other pieces."""
        if self.calls is None:
            return pieces
        rest: list[Piece] = []
        for piece in pieces:
            other: Piece | None = piece
            if piece.kind == "tool":
                other = None if self.calls.is_complete else self.calls.take(piece, cut=cut)
            if other is not None and other.kind == "content":
                text = self.calls.take_content(other.text)
                other = Piece("content", text) if text else None
            if other is not None:
                rest.append(other)
        if self.calls.is_complete:
            self.filter.stopped = True
        return rest
