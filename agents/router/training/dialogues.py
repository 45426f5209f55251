"""Dialogues with each turn's right domain: what the head of :mod:`agents.router.dialogue` is trained and judged on."""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from importlib.resources import files
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec
import numpy as np
from msgspec import Meta
from sklearn.linear_model import LogisticRegression

from agents.router import dialogue
from agents.router.checkpoint import load_shipped
from agents.router.conversations import ConversationReader, Reading
from agents.router.dialogue import KINDS, Conversation, DialogueHead, Shares
from agents.router.scoring import OutputScores, Scorer
from agents.router.selection import select_outputs
from agents.shared.domains import Taxonomy, load_taxonomy
from agents.shared.encoder import Floats, encode, load_model
from schemas.errors import SetupError

DIALOGUES, ASIDES = "dialogues.jsonl", "asides.jsonl"

BASE = "base"
FOLDS = 5
PAIRS = 2
"""Conversations of another domain in which each message that stands by itself is learned as one more example."""

INVERSE_PENALTY = 1.0
EMBED_BATCH = 64
SEED = 0

Kind = Literal["opening", "follow-up", "switch", "small-talk", "general"]

_LEANING = Shares(0.0, 1.0, 0.0)
_SMALL_TALK = Shares(0.0, 0.0, 1.0)
_BY_ITSELF = Shares(1.0, 0.0, 0.0)
_SHARES: dict[Kind, Shares] = {"follow-up": _LEANING, "small-talk": _SMALL_TALK}

L = TypeVar("L")


class LabelledTurn(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A user's message with the niche domain that should answer it, or ``base``; and the assistant's answer.

    A ``switch`` brings another domain up, a ``general`` question stands by itself and needs no domain but ``chat-fr``.
    """

    user: str
    domain: str
    kind: Kind
    assistant: str = ""


class LabelledDialogue(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Two to four turns; the first one is the opening, and the last one has no answer yet."""

    lang: str
    turns: Annotated[tuple[LabelledTurn, ...], Meta(min_length=2, max_length=4)]


class Aside(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A message that may come in any conversation: small talk, or a general question."""

    text: str
    kind: Literal["small-talk", "general"]
    domain: str
    lang: str


class TurnFigures(msgspec.Struct, frozen=True, kw_only=True):
    """The turns of one kind: how many, and the shares (0..1) whose first output, and first niche domain, is right.

    ``alone`` is the share whose first output is right when the message is read without its conversation.
    """

    turns: int
    right: float
    niche: float
    alone: float


def load_dialogues() -> tuple[LabelledDialogue, ...]:
    """The shipped dialogues.

    Raises:
        SetupError: a line is no dialogue.
    """
    dialogues = _read_lines(DIALOGUES, LabelledDialogue)
    for number, entry in enumerate(dialogues, start=1):
        first, *later = entry.turns
        where = f"{DIALOGUES}, line {number}"
        if first.kind != "opening" or any(turn.kind == "opening" for turn in later):
            raise SetupError(f"{where}: the first turn, and no other, is the opening.", param="kind")
        for turn in entry.turns:
            if turn.domain != BASE and turn.domain not in load_taxonomy().domains:
                raise SetupError(f"{where}: there is no domain '{turn.domain}'.", param="domain")
        if not all(turn.assistant for turn in entry.turns[:-1]) or later[-1].assistant:
            raise SetupError(f"{where}: every turn but the last one has an answer.", param="assistant")
    return dialogues


def load_asides() -> tuple[Aside, ...]:
    """The shipped asides.

    Raises:
        SetupError: a line is no aside.
    """
    return _read_lines(ASIDES, Aside)


def _read_lines(name: str, kind: type[L]) -> tuple[L, ...]:
    lines = []
    for number, line in enumerate(_read_text(name).splitlines(), start=1):
        try:
            lines.append(msgspec.json.decode(line, type=kind))
        except msgspec.DecodeError as error:
            raise SetupError(f"{name}, line {number}: {error}.", param="dialogues") from error
    return tuple(lines)


def _read_text(name: str) -> str:
    return files("configs").joinpath("router", name).read_text(encoding="utf-8")


def digest() -> str:
    """sha256 of the files that the head is trained from."""
    root = files("configs").joinpath("router")
    return hashlib.sha256(b"".join(root.joinpath(name).read_bytes() for name in (DIALOGUES, ASIDES))).hexdigest()


def texts_of(dialogues: Sequence[LabelledDialogue], asides: Sequence[Aside]) -> list[str]:
    """All texts to embed, each once."""
    users = [turn.user for entry in dialogues for turn in entry.turns]
    return list(dict.fromkeys([*users, *(aside.text for aside in asides)]))


def train_head(*, embedder: Path, out: Path) -> dict[str, TurnFigures]:
    """Train the head from the shipped dialogues with the shipped checkpoint, and write its file into ``out``.

    Returns:
        The cross-validated figures.
    """
    dialogues, asides = load_dialogues(), load_asides()
    trainer = make_trainer(dialogues, asides, embedder=embedder)
    data = dialogue.encode_head(trainer.fit(dialogues, asides), dialogues_sha256=digest())
    out.mkdir(parents=True, exist_ok=True)
    (out / dialogue.FILE).write_bytes(data)
    return trainer.cross_validate(dialogues, asides)


def report(figures: Mapping[str, TurnFigures]) -> str:
    """The figures as a markdown table."""
    lines = ["| turns | count | output right | niche domain right | output right without the conversation |"]
    lines += ["|---|---|---|---|---|"]
    lines += [
        f"| {name} | {row.turns} | {row.right:.1%} | {row.niche:.1%} | {row.alone:.1%} |"
        for name, row in figures.items()
    ]
    return "\n".join(lines)


def judge(*, embedder: Path) -> dict[str, TurnFigures]:
    """The cross-validated figures of the shipped dialogues with the shipped checkpoint."""
    dialogues, asides = load_dialogues(), load_asides()
    return make_trainer(dialogues, asides, embedder=embedder).cross_validate(dialogues, asides)


def make_trainer(
    dialogues: Sequence[LabelledDialogue], asides: Sequence[Aside], *, embedder: Path
) -> "DialogueTrainer":
    """A trainer with the shipped checkpoint; all texts are embedded first."""
    model = load_model(embedder)
    texts = sorted(texts_of(dialogues, asides), key=len)
    vectors = np.concatenate([encode(model, texts[at : at + EMBED_BATCH]) for at in range(0, len(texts), EMBED_BATCH)])
    taxonomy = load_taxonomy()
    return DialogueTrainer(Scorer(load_shipped(), taxonomy), taxonomy, dict(zip(texts, vectors, strict=True)))


class DialogueTrainer:
    """Trains and judges the head with one scorer. ``vectors`` has the ``[width]`` unit vectors of :func:`texts_of`."""

    def __init__(self, scorer: Scorer, taxonomy: Taxonomy, vectors: Mapping[str, Floats]) -> None:
        self._scorer, self._taxonomy, self._vectors = scorer, taxonomy, vectors
        self._threshold = scorer.checkpoint.meta.threshold
        self._scores = dict(zip(vectors, scorer.score(list(vectors), np.stack([*vectors.values()])), strict=True))

    def fit(self, dialogues: Sequence[LabelledDialogue], asides: Sequence[Aside]) -> DialogueHead:
        """The head that tells the dialogues' turns, and the asides within them, best; the same each time."""
        draw = np.random.default_rng(SEED)
        openings = [entry.turns[0] for entry in dialogues]
        rows: list[tuple[Floats, int]] = []
        for entry in dialogues:
            rows += self._rows_of(entry)
        alone = [turn for entry in dialogues for turn in entry.turns if turn.kind not in _SHARES]
        strangers = [(turn.user, turn.domain, turn.kind) for turn in alone]
        strangers += [(aside.text, aside.domain, aside.kind) for aside in asides]
        for _ in range(PAIRS):
            for text, domain, kind in strangers:
                opening = openings[draw.integers(len(openings))]
                if kind == "small-talk" or opening.domain == BASE or not self._is_right(opening.domain, domain):
                    rows.append(
                        (self._features(text, self._advance(Conversation(), opening.user, _BY_ITSELF)), _row(kind))
                    )
        inputs, kinds = (np.stack(column) for column in zip(*rows, strict=True))
        model = LogisticRegression(C=INVERSE_PENALTY, max_iter=5000).fit(inputs, kinds)
        return DialogueHead(weight=model.coef_.astype(np.float32), bias=model.intercept_.astype(np.float32))

    def _rows_of(self, entry: LabelledDialogue) -> list[tuple[Floats, int]]:
        """The features of each turn but the first, with the conversation before it as it should be, and its kind."""
        rows, conversation = [], Conversation()
        for before, turn in pairwise(entry.turns):
            conversation = self._advance(conversation, before.user, _SHARES.get(before.kind, _BY_ITSELF))
            rows.append((self._features(turn.user, conversation), _row(turn.kind)))
        return rows

    def _features(self, text: str, conversation: Conversation) -> Floats:
        return dialogue.features(text, self._vectors[text], self._scores[text], conversation, self._taxonomy)

    def _advance(self, conversation: Conversation, text: str, shares: Shares) -> Conversation:
        mixed = dialogue.mix(self._scores[text], conversation.running, shares, self._taxonomy)
        return dialogue.advance(
            conversation, mixed, self._vectors[text], shares, threshold=self._threshold, taxonomy=self._taxonomy
        )

    def cross_validate(self, dialogues: Sequence[LabelledDialogue], asides: Sequence[Aside]) -> dict[str, TurnFigures]:
        """Figures by kind of turn, and by kind and language; each dialogue is read by a head that the others trained.

        Asides are judged as the second turn of a dialogue's opening, under ``aside: <kind>``.
        """
        outcomes: defaultdict[str, list[tuple[bool, bool, bool]]] = defaultdict(list)
        for fold in range(FOLDS):
            head = self.fit(_rest(dialogues, fold), _rest(asides, fold))
            reader = ConversationReader(self._scorer, head, self._taxonomy, threshold=self._threshold)
            for entry in dialogues[fold::FOLDS]:
                for turn, reading in zip(entry.turns, self._play(reader, [t.user for t in entry.turns]), strict=True):
                    outcome = self._outcome(reading, turn.user, turn.domain)
                    for name in (turn.kind, f"{turn.kind}, {entry.lang}"):
                        outcomes[name].append(outcome)
            openings = [entry.turns[0] for entry in dialogues[fold::FOLDS]]
            for number, aside in enumerate(asides[fold::FOLDS]):
                opening = openings[number % len(openings)]
                reading = self._play(reader, [opening.user, aside.text])[1]
                outcomes[f"aside: {aside.kind}"].append(self._outcome(reading, aside.text, aside.domain))
        return {name: _figures(outcomes[name]) for name in sorted(outcomes)}

    def _play(self, reader: ConversationReader, texts: Sequence[str]) -> list[Reading]:
        readings, conversation = [], Conversation()
        for text in texts:
            readings.append(reader.read((text,), self._vectors, conversation))
            conversation = readings[-1].conversation
        return readings

    def _outcome(self, reading: Reading, text: str, domain: str) -> tuple[bool, bool, bool]:
        """Whether the output, the niche domain, and the output without the conversation is right."""
        output, niche = self._first(reading.scores)
        return (
            self._is_right(output, domain),
            niche == domain,
            self._is_right(self._first(self._scores[text])[0], domain),
        )

    def _first(self, scores: OutputScores) -> tuple[str, str]:
        """The first output and its niche domain; base for both when none passes the gate."""
        chosen = select_outputs(scores.outputs, threshold=self._threshold, top_k=1)
        return (chosen[0].name, scores.niche(chosen[0].name)) if chosen else (BASE, BASE)

    def _is_right(self, name: str, domain: str) -> bool:
        return (
            name == domain
            if BASE in (name, domain)
            else self._taxonomy.output_of(name) == self._taxonomy.output_of(domain)
        )


def _row(kind: Kind) -> int:
    return KINDS.index({"follow-up": "leaning", "small-talk": "small talk"}.get(kind, "by itself"))


def _rest(entries: Sequence[L], fold: int) -> list[L]:
    return [entry for number, entry in enumerate(entries) if number % FOLDS != fold]


def _figures(outcomes: Sequence[tuple[bool, bool, bool]]) -> TurnFigures:
    right, niche, alone = (float(np.mean(column)) for column in zip(*outcomes, strict=True))
    return TurnFigures(turns=len(outcomes), right=right, niche=niche, alone=alone)
