"""LoCoMo's dialogues (arXiv 2402.17753), one JSON file each: turns, and questions with the turns that answer them."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.memory import imports
from schemas.errors import InvalidInput

ADVERSARIAL = 5
"""The category of questions without an answer; they are left out."""

_EVIDENCE = re.compile(r"D\d+:\d+")


@dataclass(frozen=True)
class DialogueQuestion:
    """A question with the ids of the turns that answer it."""

    text: str
    category: int
    evidence: tuple[str, ...]


@dataclass(frozen=True)
class Dialogue:
    """The turns of a dialogue, and the questions that some of them answer."""

    name: str
    lines: tuple[imports.HistoryLine, ...]
    questions: tuple[DialogueQuestion, ...]


def read_dialogues(directory: Path) -> list[Dialogue]:
    """The dialogues in ``directory``, one JSON file each.

    Raises:
        InvalidInput: there is none, or one is not of LoCoMo's form.
    """
    files = sorted(directory.glob("*.json"))
    if not files:
        raise InvalidInput(f"no *.json in {directory}: give a folder of LoCoMo dialogues.", param="directory")
    return [_parse_dialogue(path) for path in files]


def _parse_dialogue(path: Path) -> Dialogue:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        lines = tuple(
            imports.HistoryLine(
                text=turn["text"],
                session=turn["session"],
                speaker=turn["speaker"],
                timestamp=turn["when"],
                id=turn["dia_id"],
            )
            for turn in data["turns"]
        )
        ids = {str(line.id) for line in lines}
        questions = tuple(
            DialogueQuestion(item["question"], item["category"], evidence)
            for item in data["qa"]
            if item["category"] != ADVERSARIAL and (evidence := _evidence(item, ids))
        )
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise InvalidInput(f"{path.name} is no LoCoMo dialogue ({error!r}).", param="directory") from error
    return Dialogue(path.stem, lines, questions)


def _evidence(item: dict[str, Any], ids: set[str]) -> tuple[str, ...]:
    mentions = (name for text in item.get("evidence", ()) for name in _EVIDENCE.findall(text))
    return tuple(dict.fromkeys(name for name in mentions if name in ids))
