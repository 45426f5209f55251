"""Text that is shown while it is decoded, and stays one text when the worker starts again.

A redelivered turn decodes from the beginning: its tokens carry a higher ``attempt`` and count from 0. What was
shown cannot be taken back, so only what continues it is shown.
"""

from schemas.errors import KikiError
from schemas.events import InferToken


class Diverged(KikiError):
    """The turn was decoded again and came out differently after some of it had been shown."""

    code = "internal_error"
    retryable = True


class LiveText:
    """What was shown of each kind (content, reasoning), and what the newest attempt has said."""

    def __init__(self) -> None:
        self._attempt = 0
        self._next = 0
        self._heard: dict[str, str] = {}
        self._shown: dict[str, str] = {}

    def hear(self, token: InferToken) -> str:
        """The text to show because of ``token``: none for an old attempt, a repetition, or after a lost token."""
        if token.attempt > self._attempt:
            self._attempt, self._next, self._heard = token.attempt, 0, {}
        if token.attempt < self._attempt or token.index != self._next:
            return ""
        self._next += 1
        said = self._heard[token.kind] = self._heard.get(token.kind, "") + token.text
        shown = self._shown.get(token.kind, "")
        if not said.startswith(shown):
            return ""
        self._shown[token.kind] = said
        return said[len(shown) :]

    def finish(self, text: str, *, kind: str = "content") -> str:
        """What is left to show of the whole ``text``; space at either end may differ.

        Raises:
            Diverged: what was shown is not its beginning.
        """
        shown = self._shown.get(kind, "")
        if text.startswith(shown):
            return text[len(shown) :]
        if text.strip() == shown.strip():
            return ""
        bare, begun = text.lstrip(), shown.lstrip()
        if bare.startswith(begun):
            return bare[len(begun) :]
        raise Diverged("the answer was decoded again and differs from what was already sent: ask again.")
