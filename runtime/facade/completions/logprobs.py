"""Log-probabilities in the shape of text completions: lists side by side, with an entry for each token."""

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from runtime.facade.chat import response
from schemas.findings import Echo, LikelyToken, TokenLogprob


@dataclass(frozen=True, kw_only=True)
class TokenRow:
    """One token. The first one of a prompt has neither a probability nor others beside it."""

    token: LikelyToken
    logprob: float | None
    top: dict[str, float] | None


class Offsets:
    """Where each token begins in its text, in characters; a token may begin within a character."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._at = 0

    def take(self, token: LikelyToken) -> int:
        """The offset of the next token."""
        start = self._at
        self._at += len(self._decoder.decode(bytes(response.bytes_of(token))))
        return start


def answer_rows(tokens: Sequence[TokenLogprob]) -> list[TokenRow]:
    """The tokens of an answer."""
    return [TokenRow(token=token, logprob=token.logprob, top=_describe_likely([*token.top, token])) for token in tokens]


def echo_rows(echo: Echo) -> list[TokenRow]:
    """The tokens of a prompt."""
    first = [TokenRow(token=token, logprob=None, top=None) for token in echo.tokens[:1]]
    return first + answer_rows(echo.tokens[1:])


def describe_rows(rows: Sequence[TokenRow], offsets: Offsets) -> dict[str, Any]:
    """The lists; the offsets go on from where they were."""
    return {
        "tokens": [name_token(row.token) for row in rows],
        "token_logprobs": [row.logprob for row in rows],
        "top_logprobs": [row.top for row in rows],
        "text_offset": [offsets.take(row.token) for row in rows],
    }


def name_token(token: LikelyToken) -> str:
    """A token's text, or its bytes where they are no text by themselves, so that no two tokens have one name."""
    if not token.bytes:
        return token.token
    return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.bytes)


def _describe_likely(tokens: Sequence[LikelyToken]) -> dict[str, float]:
    return {name_token(token): token.logprob for token in tokens}
