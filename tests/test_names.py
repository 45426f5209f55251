"""The rules for names: functions do or are something, variables say what they hold, no two classes share a name."""

import ast
import functools
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("schemas", "bus", "agents", "runtime")

IRREGULAR = {
    "told",
    "said",
    "asked",
    "found",
    "made",
    "built",
    "drawn",
    "given",
    "shown",
    "taken",
    "kept",
    "held",
    "heard",
    "sent",
    "paid",
    "known",
    "written",
    "chosen",
    "gone",
    "begun",
    "left",
    "lost",
    "met",
    "spoken",
    "thought",
    "worn",
    "brought",
    "caught",
    "dealt",
    "done",
    "felt",
    "fed",
    "forgotten",
    "grown",
    "hidden",
    "hung",
    "laid",
    "led",
    "lent",
    "seen",
    "sought",
    "sold",
    "shaken",
    "slept",
    "spent",
    "stood",
    "stuck",
    "struck",
    "sworn",
    "swept",
    "taught",
    "thrown",
    "understood",
    "woken",
    "won",
}
NO_PARTICIPLES = {"embed", "seed", "feed", "need", "speed", "exceed"}

PURE = {
    "calibrated", "calibrated_words", "dequantized", "downscaled", "joined", "normalised", "normalized",
    "nudged", "packed", "padded", "paired_ratio", "projected", "refreshed", "rotated", "rounded", "seeded", "shortened",
    "smoothed", "trimmed", "unpacked", "unpermuted", "weighted_sum",
}  # fmt: skip
"""Participles that give their argument back changed, as ``sorted`` does."""

BUILT = {"loaded_event", "recalled_episode", "rejected_event", "staged_name", "stored_message", "supported_fields",
         "unscored_match", "used_part"}  # fmt: skip
"""Nouns with a participle before them: what the function makes of its arguments."""

SPEECH = {"told", "said", "asked", "heard"}
EMPTY_WORDS = {"found", "one", "given", "kept", "shown", "made", *SPEECH}
"""Words that do not say what a variable holds."""

Definition = tuple[str, ast.AST]


def is_participle(word: str) -> bool:
    """Whether a word is the past participle of a verb, by its ending or by the list of irregular ones."""
    return word not in NO_PARTICIPLES and (word in IRREGULAR or bool(re.fullmatch(r"[a-z]{2,}ed", word)))


def words(name: str) -> list[str]:
    """The words of a name in snake case."""
    return [word for word in name.strip("_").lower().split("_") if word]


def trees(*folders: str) -> Iterator[tuple[str, ast.Module]]:
    """Each module's path and syntax tree."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "node_modules" not in path.parts:
                yield path.relative_to(ROOT).as_posix(), parse(path)


@functools.cache
def parse(path: Path) -> ast.Module:
    """The syntax tree of a module, which most of these tests read."""
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(*folders: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Each function, nested ones too."""
    for path, tree in trees(*folders):
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield path, node


def is_property(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether it is read like an attribute, which may be an adjective."""
    return any("property" in ast.unparse(decorator) for decorator in function.decorator_list)


def test_a_function_is_no_participle_unless_it_gives_its_argument_back_changed() -> None:
    allowed = PURE | BUILT
    wrong = {
        f"{path}:{function.lineno} {function.name}"
        for path, function in functions(*ROOMS)
        if not is_property(function)
        and (parts := words(function.name))
        and is_participle(parts[0])
        and function.name.strip("_") not in allowed
    }
    assert not wrong


def test_no_function_is_named_by_a_verb_of_speech() -> None:
    assert not {
        f"{path}:{function.lineno} {function.name}"
        for path, function in functions(*ROOMS)
        if SPEECH & set(words(function.name))
    }


def test_the_allow_list_holds_only_names_that_exist() -> None:
    existing = {function.name.strip("_") for _, function in functions(*ROOMS)}
    assert existing >= PURE | BUILT


def test_a_variable_says_what_it_holds() -> None:
    wrong = set()
    for path, tree in trees(*ROOMS):
        fields = {node.target for part in ast.walk(tree) if isinstance(part, ast.ClassDef)
                  for node in part.body if isinstance(node, ast.AnnAssign)}  # fmt: skip
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node not in fields:
                name = node.id
            elif isinstance(node, ast.arg):
                name = node.arg
            else:
                continue
            if name.strip("_") in EMPTY_WORDS:
                wrong.add(f"{path}:{node.lineno} {name}")
    assert not sorted(wrong)


def test_no_two_classes_share_a_name() -> None:
    places: dict[str, list[str]] = defaultdict(list)
    for path, tree in trees(*ROOMS, "tests", "deploy"):
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{path}:{node.lineno}")
    assert not {name: found for name, found in places.items() if len(found) > 1}


def test_a_log_message_is_a_subject_and_a_verb_and_an_error_has_one_key() -> None:
    wrong = set()
    for path, tree in trees(*ROOMS):
        for node in ast.walk(tree):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.args):
                continue
            message = node.args[0]
            logger = ast.unparse(node.func.value)
            if "log" not in logger or node.func.attr not in {"info", "warning", "error", "exception", "debug"}:
                continue
            if any(keyword.arg == "why" for keyword in node.keywords):
                wrong.add(f"{path}:{node.lineno} why=")
            if isinstance(message, ast.Constant) and len(str(message.value).split()) < 2:
                wrong.add(f"{path}:{node.lineno} {message.value!r}")
    assert not wrong


@pytest.mark.parametrize("pronoun", ["it", "its", "they", "what", "who", "that"])
def test_a_test_begins_with_its_subject(pronoun: str) -> None:
    assert not {
        f"{path}:{function.lineno} {function.name}"
        for path, function in functions("tests")
        if function.name.startswith(f"test_{pronoun}_")
    }


def test_a_folder_holds_at_most_about_twenty_files() -> None:
    crowded = {}
    for folder in {path.parent for room in (*ROOMS, "tests") for path in (ROOT / room).rglob("*.py")}:
        modules = [path for path in folder.glob("*.py") if path.name != "__init__.py"]
        if "node_modules" not in folder.parts and len(modules) > 24:
            crowded[folder.relative_to(ROOT).as_posix()] = len(modules)
    assert not crowded
