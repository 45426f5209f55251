"""Retrieval measured on dialogues of LoCoMo's form, in real stores; the embedder is a hash, so words alone can find."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from runtime.bench import locomo
from runtime.bench.dialogues import ADVERSARIAL, read_dialogues
from tests.agents.memory.scenes import SIZE, unit

pytestmark = pytest.mark.anyio


async def embed(texts: Sequence[str]) -> Sequence[tuple[float, ...]]:
    return [unit(int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])) for text in texts]


def write_dialogue(directory: Path, name: str, *texts: str) -> None:
    turns = [
        {"text": text, "session": 1, "speaker": "Ann", "when": 1000.0 + n, "dia_id": f"D1:{n}"}
        for n, text in enumerate(texts)
    ]
    questions = [
        {"question": f"What about {text.split()[-1]}", "category": 4, "evidence": [f"D1:{n}"]}
        for n, text in enumerate(texts)
    ]
    adversarial = {"question": "Nothing?", "category": ADVERSARIAL, "evidence": ["D1:0"]}
    (directory / f"{name}.json").write_text(json.dumps({"turns": turns, "qa": [*questions, adversarial]}))


async def test_evidence_is_counted_by_ablation_and_by_floor(tmp_path: Path) -> None:
    write_dialogue(tmp_path, "a", "We saw a quetzal", "I baked some sourdough", "She repaired the carburettor")
    write_dialogue(tmp_path, "b", "He plays the hurdy-gurdy", "They moved to Valparaiso")
    dialogues = read_dialogues(tmp_path)
    assert [len(dialogue.questions) for dialogue in dialogues] == [3, 2]
    figures = locomo.measure(await locomo.search_dialogues(dialogues, embed, k=1, vector_size=SIZE), k=1)
    assert figures.recall.keys() == locomo.ABLATIONS.keys()
    whole = locomo.by_category(figures.recall["whole"])
    assert whole["all"].count == whole["single-hop"].count == 5
    assert whole["all"].low <= whole["all"].mean <= whole["all"].high
    assert whole["all"].mean > locomo.by_category(figures.recall["without words"])["all"].mean
    assert [floor.floor for floor in figures.floors] == list(locomo.FLOORS)
    assert all(
        lower.strangers >= upper.strangers for lower, upper in zip(figures.floors, figures.floors[1:], strict=False)
    )
    assert figures.floors[-1].strangers == 0.0


async def test_each_dialogue_is_judged_with_weights_of_the_grid(tmp_path: Path) -> None:
    write_dialogue(tmp_path, "a", "We saw a quetzal", "I baked some sourdough", "She repaired the carburettor")
    write_dialogue(tmp_path, "b", "He plays the hurdy-gurdy", "They moved to Valparaiso")
    searches = await locomo.search_dialogues(read_dialogues(tmp_path), embed, k=1, vector_size=SIZE)
    result = locomo.cross_validate_weights(searches, k=1)
    assert [(fold.group, len(fold.values)) for fold in result.folds] == [("a", 3), ("b", 2)]
    for fold in result.folds:
        weights = dict(zip(locomo.GRID, fold.choice, strict=True))
        assert all(weight in locomo.GRID[name] for name, weight in weights.items())
        settings = msgspec.structs.replace(searches.settings, **weights)
        here = [search for search in searches.questions if search.dialogue == fold.group]
        assert fold.values == tuple(locomo.evidence_recall(search, settings, 1) for search in here)
