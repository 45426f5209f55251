"""Routing in a conversation: what it is about so far, and how much a message leans on that. Pure functions.

A message stands by itself, leans on the conversation ("make it second order"), or says nothing ("thanks"). A linear
head over the message's embedding and a few numbers (:data:`NUMBERS`) gives the probability of each. The scores of the
message are then a mixture: its own scores where it stands by itself, the running domains where it leans, none where it
says nothing. So a clear new domain wins at once, and a message without a conversation keeps its own scores.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import as_file, files
from typing import NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from scipy.special import logit, softmax

from agents.router.scoring import OutputScores
from agents.shared.domains import Taxonomy
from agents.shared.encoder import Floats
from schemas.errors import SetupError

FILE = "dialogue.safetensors"
"""The head's file beside the shipped checkpoint."""

FADE = 0.7
"""What is left of a running domain after each message that says something else."""

FAINT = 0.02
"""Running domains below this weight are forgotten."""

EMBEDDING_SCALE = 3.0
"""What the unit vector is multiplied by, so that its share of the head's penalty fits that of the numbers."""

KINDS = ("by itself", "leaning", "small talk")
NUMBERS = ("best", "running", "cosine", "length", "weight", "cues", "marks")
"""What the head reads beside the embedding, each of about the size 1: the logit of the message's best domain and of the
running one, the cosine with the message before, the number of words, the weight of the running domain, words that refer
back, and phrases that change the subject."""

SPEECH = "chat-fr"
"""French raises the score of this domain whatever is asked, so that it is no sign of a new subject."""

_CUES = re.compile(
    r"\b(?:its?|it's|that|that's|this|these|those|them|they|they're|their|ones?|same|else|instead|also|too|then|there|"
    r"latter|former|first|second|third|last|other|another|both|either|he|she|his|her|"
    r"ça|cela|celui|celle|ceux|celles|même|aussi|sinon|alors|donc|lui|elle|ils|elles|premier|première|dernier|dernière|"
    r"autres?|inverse|toujours|là|deux|en|y)\b"
    r"|^\W*(?:and|but|or|so|now|what about|how about|why|what if|with|without|for|yes|no|back to|"
    r"et|mais|ou|pourquoi|avec|sans|pour|oui|non|revenons)\b",
    re.IGNORECASE,
)
_MARKS = re.compile(
    r"\b(?:different|another|unrelated|separate|new|other|next|autre|nouvelle) "
    r"(?:topic|subject|question|thing|note|matter|sujet|chose|thème)\b"
    r"|\b(?:unrelated|by the way|btw|switching|changing|moving on|forget|let's leave|rien à voir|changeons|passons|"
    r"au fait|tout autre)\b",
    re.IGNORECASE,
)
_UNKNOWN = -6.0
"""The logit of a running domain when nothing runs."""


class Shares(NamedTuple):
    """How likely a message is of each kind; the three sum to 1."""

    by_itself: float
    leaning: float
    small_talk: float


@dataclass(frozen=True)
class Conversation:
    """What a conversation is about: weights in 0..1 by niche domain, and the last message's ``[width]`` unit vector.

    The weight of a domain that the last message was routed to for sure is 1.
    """

    running: Mapping[str, float] = field(default_factory=dict)
    embedding: Floats | None = None


@dataclass(frozen=True)
class DialogueHead:
    """Multinomial logistic regression over :data:`KINDS`. ``weight`` is ``[3, width + numbers]``, ``bias`` ``[3]``."""

    weight: Floats
    bias: Floats

    @property
    def width(self) -> int:
        """Width of the embedding that it reads."""
        return int(self.weight.shape[1]) - len(NUMBERS)

    def shares(self, features: Floats) -> Shares:
        """The kinds' probabilities, from a message's :func:`features`."""
        by_itself, leaning, small_talk = softmax(self.weight @ features + self.bias).tolist()
        return Shares(by_itself, leaning, small_talk)


def features(
    text: str, embedding: Floats, scores: OutputScores, conversation: Conversation, taxonomy: Taxonomy
) -> Floats:
    """What the head reads of a message: ``[width + numbers]``."""
    logits = {name: float(logit(min(max(score, 1e-4), 1.0 - 1e-4))) for name, score in scores.outputs.items()}
    running = by_output(conversation.running, taxonomy)
    first = max(running, key=lambda name: (running[name], name), default="")
    weight = running.get(first, 0.0)
    before = embedding if conversation.embedding is None else conversation.embedding
    numbers = (
        max(value for name, value in logits.items() if name != SPEECH) / 4.0,
        (logits[first] if weight > 0.05 else _UNKNOWN) / 4.0,
        2.0 * float(embedding @ before),
        float(np.log1p(len(text.split()))) / 2.0,
        weight,
        min(3, len(_CUES.findall(text))) / 2.0,
        float(_MARKS.search(text) is not None),
    )
    return np.concatenate([embedding * EMBEDDING_SCALE, np.array(numbers)]).astype(np.float32)


def mix(scores: OutputScores, running: Mapping[str, float], shares: Shares, taxonomy: Taxonomy) -> OutputScores:
    """The message's scores in its conversation: the mixture of its own and of the running domains'."""
    own = niche_scores(scores, taxonomy)
    mixed = {
        name: shares.by_itself * own.get(name, 0.0) + shares.leaning * running.get(name, 0.0)
        for name in taxonomy.niches
    }
    return _output_scores(mixed, taxonomy)


def advance(
    conversation: Conversation,
    scores: OutputScores,
    embedding: Floats,
    shares: Shares | None,
    *,
    threshold: float,
    taxonomy: Taxonomy,
) -> Conversation:
    """The conversation after a message. ``scores`` are the message's :func:`mix`; ``shares`` None: it is the first one.

    Small talk leaves everything as it is. Else the domains before it fade, and those of the message come on top.
    """
    small_talk = 0.0 if shares is None else shares.small_talk
    rest = max(1.0 - small_talk, 1e-6)
    fresh = {name: score / rest for name, score in niche_scores(scores, taxonomy).items()}
    best = max(by_output(fresh, taxonomy).values(), default=0.0)
    if best >= threshold:
        fresh = {name: weight / best for name, weight in fresh.items()}
    share_left = small_talk + rest * FADE
    running = {
        name: max(rest * fresh.get(name, 0.0), share_left * conversation.running.get(name, 0.0))
        for name in taxonomy.niches
    }
    said_nothing = small_talk >= 0.5 and conversation.embedding is not None
    return Conversation(
        running={name: min(weight, 1.0) for name, weight in running.items() if weight >= FAINT},
        embedding=conversation.embedding if said_nothing else embedding,
    )


def niche_scores(scores: OutputScores, taxonomy: Taxonomy) -> dict[str, float]:
    """The scores by niche domain: each output's score, divided among its niche domains."""
    result: dict[str, float] = {}
    for output, score in scores.outputs.items():
        inside = scores.inside.get(output) or dict.fromkeys(taxonomy.members[output], 1.0)
        total = sum(inside.values())
        for name, share in inside.items():
            result[name] = score * (share / total if total > 0.0 else 1.0 / len(inside))
    return result


def by_output(niches: Mapping[str, float], taxonomy: Taxonomy) -> dict[str, float]:
    """The sums of the niche domains' scores by router output; names that are no domain are passed over."""
    sums: dict[str, float] = {}
    for name, score in niches.items():
        if name in taxonomy.domains:
            output = taxonomy.output_of(name)
            sums[output] = sums.get(output, 0.0) + score
    return sums


def _output_scores(niches: Mapping[str, float], taxonomy: Taxonomy) -> OutputScores:
    outputs = {output: min(score, 1.0) for output, score in by_output(niches, taxonomy).items()}
    inside = {output: {name: niches[name] for name in names} for output, names in taxonomy.members.items()}
    return OutputScores(outputs, inside)


def average(scores: Sequence[OutputScores], taxonomy: Taxonomy) -> OutputScores:
    """The mean of several texts' scores."""
    rows = [niche_scores(row, taxonomy) for row in scores]
    return _output_scores({name: sum(row[name] for row in rows) / len(rows) for name in taxonomy.niches}, taxonomy)


def encode_head(head: DialogueHead, *, dialogues_sha256: str) -> bytes:
    """The head's file; it says which dialogues the head was trained from."""
    tensors = {"weight": np.ascontiguousarray(head.weight, np.float32), "bias": np.asarray(head.bias, np.float32)}
    data: bytes = save(tensors, metadata={"dialogues_sha256": dialogues_sha256})
    return data


def load_head() -> DialogueHead:
    """The shipped head.

    Raises:
        SetupError: its file is missing, or holds no such head.
    """
    source = files("configs").joinpath("router", FILE)
    try:
        with as_file(source) as path, safe_open(path, framework="np") as file:
            head = DialogueHead(weight=file.get_tensor("weight"), bias=file.get_tensor("bias"))
    except (OSError, SafetensorError) as error:
        raise SetupError(f"{FILE} cannot be read ({error}): 'kiki router dialogues' makes it again.") from error
    if head.bias.shape != (len(KINDS),) or head.weight.shape[:-1] != (len(KINDS),) or head.width < 1:
        raise SetupError(f"{FILE} holds no head of {len(KINDS)} kinds: 'kiki router dialogues' makes it again.")
    return head
