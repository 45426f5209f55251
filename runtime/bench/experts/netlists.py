"""Reads SPICE netlists as ngspice does, and judges whether a reply is the circuit that was asked for."""

import itertools
import re
from dataclasses import dataclass

from runtime.bench.experts.verdict import ExpertVerdict, extract_block

MAX_NODES = 6
"""Nodes of a circuit, besides ground, that are tried in every order."""

_NUMBER = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)(meg|mil|[tgkmunpf])?[a-zµω]*", re.IGNORECASE)
_SCALES = {"t": 1e12, "g": 1e9, "meg": 1e6, "k": 1e3, "m": 1e-3, "mil": 25.4e-6, "u": 1e-6, "n": 1e-9, "p": 1e-12,
           "f": 1e-15}  # fmt: skip
_NODES = {"R": 2, "C": 2, "L": 2, "V": 2, "I": 2, "D": 2, "Q": 3, "E": 4}
_EITHER_WAY = frozenset("RCL")
_LEVELS = 2
"""Of a pulse only both levels count; of a sine all of offset, amplitude and frequency."""

Values = tuple[float | str, ...]


@dataclass(frozen=True)
class Element:
    """A part: its letter, its nodes in order, and what it is worth."""

    kind: str
    nodes: tuple[str, ...]
    values: Values


@dataclass(frozen=True)
class Circuit:
    """A netlist without names: elements, and analyses with their numbers. ``title`` and ``ended`` are its form."""

    elements: tuple[Element, ...]
    analyses: tuple[Values, ...]
    title: str
    ended: bool

    @property
    def nodes(self) -> tuple[str, ...]:
        """All nodes but ground, each once."""
        return tuple(dict.fromkeys(node for part in self.elements for node in part.nodes if node != "0"))


def parse_netlist(text: str) -> Circuit:
    """A netlist; its first line is the title, whatever it says, as SPICE has it.

    Raises:
        ValueError: a line that ngspice would not take, or one of a kind that no question asks for.
    """
    title, *rest = text.strip().splitlines() or [""]
    lines: list[str] = []
    for line in rest:
        code = re.split(r"[;$]", line, maxsplit=1)[0].strip()
        if code.startswith("+") and lines:
            lines[-1] += " " + code[1:]
        elif code and not code.startswith("*"):
            lines.append(code)
    models = {words[1].lower(): words[2].split("(")[0].upper() for line in lines
              if (words := line.split())[0].lower() == ".model" and len(words) > 2}  # fmt: skip
    elements, analyses, ended = [], [], False
    for line in lines:
        directive = line.split()[0].lower()
        if directive == ".end":
            ended = True
            break
        if directive in (".op", ".ac", ".tran", ".dc"):
            analyses.append(_read_analysis(directive, line.split()[1:]))
        elif directive.startswith("."):
            if directive not in (".model", ".print", ".plot", ".save", ".options", ".option", ".probe"):
                raise ValueError(f"unknown directive: {line}")
        else:
            elements.append(_read_element(line, models))
    if not elements:
        raise ValueError("there is no element")
    return Circuit(tuple(elements), tuple(analyses), title, ended)


def read_number(word: str) -> float:
    """A number with SPICE's suffix: ``4.7k``, ``1meg``, ``100nF``.

    Raises:
        ValueError: it is none.
    """
    match = _NUMBER.fullmatch(word)
    if match is None:
        raise ValueError(f"no number: {word}")
    return float(f"{float(match[1]) * _SCALES.get((match[2] or '').lower(), 1.0):.6g}")


def _read_analysis(directive: str, words: list[str]) -> Values:
    """The numbers that count: of a sweep over decades not the points in each, of a DC sweep not the source's name."""
    numbers = words[2:4] if directive == ".ac" else words[1:4] if directive == ".dc" else words[:2]
    if len(numbers) != {".op": 0, ".ac": 2, ".tran": 2, ".dc": 3}[directive]:
        raise ValueError(f"too few values: {directive} {' '.join(words)}")
    return (directive, *map(read_number, numbers))


def _read_element(line: str, models: dict[str, str]) -> Element:
    words = line.replace("(", " ( ").replace(")", " ) ").replace(",", " ").split()
    kind = words[0][0].upper()
    if kind not in _NODES:
        raise ValueError(f"unknown element: {line}")
    count = _NODES[kind]
    nodes = tuple("0" if node.lower() in ("0", "gnd") else node.lower() for node in words[1 : 1 + count])
    rest = words[1 + count :]
    if len(nodes) < count or not rest:
        raise ValueError(f"too few words: {line}")
    if kind in "VI":
        return Element(kind, nodes, _read_source(rest))
    if kind in "DQ":
        if (model := models.get(rest[0].lower())) is None:
            raise ValueError(f"no .model for: {line}")
        return Element(kind, nodes, (model,))
    return Element(kind, tuple(sorted(nodes)) if kind in _EITHER_WAY else nodes, (read_number(rest[0]),))


def _read_source(words: list[str]) -> Values:
    """The waveform of a source; a DC value of zero says nothing."""
    values: dict[str, Values] = {}
    name = "dc"
    for word in (word.lower() for word in words if word not in "()"):
        if word in ("dc", "ac", "pulse", "sin"):
            name = word
            values[name] = ()
        else:
            values[name] = (*values.get(name, ()), read_number(word))
    if "pulse" in values:
        values["pulse"] = values["pulse"][:_LEVELS]
    if "sin" in values:
        values["sin"] = values["sin"][:3]
    if values.get("dc") == (0.0,):
        del values["dc"]
    if values.get("ac") == ():
        values["ac"] = (1.0,)
    return tuple(value for name in sorted(values) for value in (name, *values[name]))


def is_same_circuit(first: Circuit, second: Circuit) -> bool:
    """Whether both have the same elements between the same nodes, however the nodes are called, and the same
    analyses."""
    nodes, others = first.nodes, second.nodes
    if len(nodes) != len(others) or len(nodes) > MAX_NODES or sorted(map(str, first.analyses)) != sorted(
        map(str, second.analyses)
    ):  # fmt: skip
        return False
    wanted = sorted(map(str, second.elements))
    return any(
        sorted(str(_rename(part, dict(zip(nodes, order, strict=True)))) for part in first.elements) == wanted
        for order in itertools.permutations(others)
    )


def _rename(part: Element, names: dict[str, str]) -> Element:
    nodes = tuple(names.get(node, node) for node in part.nodes)
    return Element(part.kind, tuple(sorted(nodes)) if part.kind in _EITHER_WAY else nodes, part.values)


def judge_netlist(reply: str, reference: str) -> ExpertVerdict:
    """Right when the netlist in the reply is the reference's circuit; alone when the reply begins with a title comment
    and ends with ``.end``."""
    try:
        circuit = parse_netlist(extract_block(reply))
    except ValueError:
        return ExpertVerdict(False)
    right = is_same_circuit(circuit, parse_netlist(reference))
    form = circuit.title.startswith("*") and circuit.ended and reply.strip().lower().endswith(".end")
    return ExpertVerdict(right, alone=right and form and "```" not in reply)
