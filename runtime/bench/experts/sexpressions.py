"""Reads KiCad's S-expressions, and judges whether a reply holds those that were asked for."""

import re
from typing import TypeAlias

from runtime.bench.experts.verdict import ExpertVerdict, extract_block

Tree: TypeAlias = "str | tuple[Tree, ...]"
"""An atom, or a list of trees. Quotes are removed, and numbers are written in one way: ``1.50`` is ``1.5``."""

_TOKEN = re.compile(r'\s*(?:([()])|"((?:[^"\\]|\\.)*)"|([^\s()"]+))')
_BEGINNING = re.compile(r"\([a-z_]+[\s)]")

FREE = frozenset({"uuid", "tstamp", "justify", "color", "diameter"})
"""Parts that KiCad fills in, or that the questions leave open."""


def parse_sexpressions(text: str) -> tuple[Tree, ...]:
    """All S-expressions of a text.

    Raises:
        ValueError: a bracket or a quote is missing, or something stands outside the brackets.
    """
    trees: list[Tree] = []
    place = 0
    text = text.strip()
    while place < len(text):
        tree, place = _parse(text, place)
        if isinstance(tree, str):
            raise ValueError(f"{tree!r} stands outside the brackets")
        trees.append(tree)
    return tuple(trees)


def _parse(text: str, place: int) -> tuple[Tree, int]:
    """The tree that begins at ``place``, and where it ends."""
    stack: list[list[Tree]] = []
    while match := _TOKEN.match(text, place):
        place = match.end()
        bracket, quote, word = match.groups()
        if bracket == "(":
            stack.append([])
            continue
        if bracket == ")":
            if not stack:
                break
            tree: Tree = tuple(stack.pop())
        else:
            tree = _write_number(word) if word is not None else quote
        if not stack:
            return tree, place
        stack[-1].append(tree)
    raise ValueError(f"brackets or quotes do not match at character {place}")


def _write_number(word: str) -> str:
    try:
        return f"{float(word):g}"
    except ValueError:
        return word


def judge_sexpressions(reply: str, reference: str) -> ExpertVerdict:
    """Right when every expression of the reference stands somewhere in the reply, whatever the order of its parts and
    whatever KiCad fills in itself; alone when the reply is nothing but whole S-expressions."""
    try:
        trees, alone = parse_sexpressions(reply), True
    except ValueError:
        trees, alone = _search_trees(extract_block(reply)), False
    parts = {part for tree in trees for part in _walk(tree)}
    expected = [_simplify(tree) for tree in parse_sexpressions(reference)]
    right = all(tree in parts for tree in expected)
    return ExpertVerdict(right, alone=right and alone and len(trees) == len(expected))


def _search_trees(text: str) -> tuple[Tree, ...]:
    """The first S-expression within other text, and those that follow it at once."""
    match = _BEGINNING.search(text)
    trees: list[Tree] = []
    place = match.start() if match else len(text)
    while text[place:].lstrip().startswith("("):
        try:
            tree, place = _parse(text, place)
        except ValueError:
            break
        trees.append(tree)
    return tuple(trees)


def _walk(tree: Tree) -> list[Tree]:
    """The tree and all lists in it, simplified."""
    if isinstance(tree, str):
        return []
    return [_simplify(tree), *(part for child in tree for part in _walk(child))]


def _simplify(tree: Tree) -> Tree:
    """A tree without what is free, its lists in alphabetical order behind its atoms."""
    if isinstance(tree, str) or not tree:
        return tree
    head, *rest = tree
    atoms: list[Tree] = [child for child in rest if isinstance(child, str)]
    if head == "at" and len(atoms) == 3 and atoms[2] == "0":
        atoms.pop()  # an angle of zero may be left out
    if head == "layers":
        atoms.sort(key=str)
    lists = [part for child in rest if isinstance(child, tuple) for part in _open(child)]
    return (head, *atoms, *sorted(lists, key=str))


def _open(part: tuple[Tree, ...]) -> list[Tree]:
    """What a part says: the width of a stroke, the letters' size of effects unless it is KiCad's own, a real fill."""
    head = part[0] if part else ""
    if head in FREE or part in (("fill", "none"), ("fill", "no"), ("fill", ("type", "none"))):
        return []
    if head == "stroke":
        return [_simplify(child) for child in part if isinstance(child, tuple) and child[:1] == ("width",)]
    if head == "effects":
        return [child for child in _walk(part) if child[:1] == ("size",) and child[1:] != ("1.27", "1.27")]
    return [_simplify(part)]
