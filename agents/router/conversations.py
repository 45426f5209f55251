"""Reads a user's messages in order: the domains of the last one, and what the conversation is about after it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from agents.router import dialogue
from agents.router.dialogue import Conversation, DialogueHead
from agents.router.passages import Passages, split_message
from agents.router.scoring import OutputScores, Scorer
from agents.shared.domains import Taxonomy
from agents.shared.encoder import Floats
from bus import metrics
from schemas.chat import Message

DIGITS = 6
"""Decimals of a vector in an event, as the embedder gives them."""

EARLIER = 4
"""Earlier messages of the user that are read; what came before them has faded."""


@dataclass(frozen=True)
class Reading:
    """What was read: the last message's scores in its conversation, its unit vector, and the conversation after it."""

    scores: OutputScores
    embedding: tuple[float, ...]
    conversation: Conversation


def user_texts(messages: Sequence[Message]) -> tuple[str, ...]:
    """The user's last messages, oldest first: the one that is routed, and :data:`EARLIER` before it at most."""
    texts = tuple(message.content for message in messages if message.role == "user")
    return texts[-1 - EARLIER :] or ("",)


class ConversationReader:
    """Reads conversations with one checkpoint and the dialogue head, which reads embeddings of one width alone.

    With a checkpoint of another width each message is read by itself; that is counted.
    """

    def __init__(self, scorer: Scorer, head: DialogueHead, taxonomy: Taxonomy, *, threshold: float) -> None:
        self.scorer = scorer
        self.threshold = threshold
        self._taxonomy = taxonomy
        width = scorer.checkpoint.classifier.width
        self._head = head if head.width == width else None
        if self._head is None:
            metrics.count_degraded(
                "router.dialogue",
                f"the dialogue head reads embeddings of width {head.width}, the checkpoint of {width}",
            )

    def texts_to_embed(self, texts: Sequence[str]) -> tuple[str, ...]:
        """The texts whose vectors :meth:`read` needs, each once."""
        return tuple(
            dict.fromkeys(
                part for text in texts for part in (text, *(p for way in split_message(text) for p in way.texts))
            )
        )

    def read(self, texts: Sequence[str], vectors: Mapping[str, Floats], conversation: Conversation) -> Reading:
        """Read ``texts``, a user's messages, oldest first, after ``conversation``.

        ``vectors`` has the ``[width]`` unit vectors of :meth:`texts_to_embed`.
        """
        scores = OutputScores({}, {})
        for text in texts:
            scores, conversation = self._read_message(text, vectors, conversation)
        embedding: list[float] = np.round(vectors[texts[-1]].astype(np.float64), DIGITS).tolist()
        return Reading(scores, tuple(embedding), conversation)

    def _read_message(
        self, text: str, vectors: Mapping[str, Floats], conversation: Conversation
    ) -> tuple[OutputScores, Conversation]:
        ways = [self._read_way(passages, vectors, conversation) for passages in split_message(text)]
        return max(ways, key=lambda way: max(way[0].outputs.values(), default=0.0))

    def _read_way(
        self, passages: Passages, vectors: Mapping[str, Floats], conversation: Conversation
    ) -> tuple[OutputScores, Conversation]:
        if passages.about:
            about = dialogue.average(self._score(passages.about, vectors), self._taxonomy)
            after = self._advance(conversation, about, vectors[passages.about[0]], None)
            if not passages.ask:
                return about, after
            if max(about.outputs.values()) >= self.threshold:
                conversation = after
        (own,) = self._score((passages.ask,), vectors)
        vector = vectors[passages.ask]
        if self._head is None or conversation.embedding is None:
            return own, self._advance(conversation, own, vector, None)
        shares = self._head.shares(dialogue.features(passages.ask, vector, own, conversation, self._taxonomy))
        mixed = dialogue.mix(own, conversation.running, shares, self._taxonomy)
        return mixed, self._advance(conversation, mixed, vector, shares)

    def _score(self, texts: Sequence[str], vectors: Mapping[str, Floats]) -> list[OutputScores]:
        return self.scorer.score(texts, np.stack([vectors[text] for text in texts]))

    def _advance(
        self, conversation: Conversation, scores: OutputScores, vector: Floats, shares: dialogue.Shares | None
    ) -> Conversation:
        return dialogue.advance(conversation, scores, vector, shares, threshold=self.threshold, taxonomy=self._taxonomy)
