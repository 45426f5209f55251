"""How a turn was decided, in full: panel, votes, dissent, arbitration, bias check, and the cost of each step."""

from collections.abc import Iterator, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from schemas.findings import Arbitration, BiasReport, Candidate, Cost, Dissent, Inference, Negotiation, Vote

TEXT_WIDTH = 72
"""Characters of a text in the tables."""


def draw_deliberation(inference: Inference, negotiation: Negotiation) -> RenderableType | None:
    """The deliberation for a terminal; None when there was nothing to decide."""
    if negotiation.outcome in ("passed", "single") and negotiation.dissent is None:
        return None
    parts: list[RenderableType] = [_candidates(inference, negotiation)]
    if negotiation.votes:
        parts.append(_votes(negotiation.votes))
    parts += [Text(line) for line in _lines(negotiation)]
    if negotiation.costs:
        parts.append(_costs(negotiation.costs))
    return Group(*parts)


def summary(inference: Inference, negotiation: Negotiation) -> dict[str, Any]:
    """The same for a program; times in milliseconds, leans and supports in nats."""
    dissent, arbitration = negotiation.dissent, negotiation.arbitration
    return {
        "outcome": negotiation.outcome,
        "chosen": negotiation.chosen,
        "panel": list(negotiation.panel),
        "groups": [list(group) for group in negotiation.groups],
        "candidates": [
            {
                "member": member_of(candidate),
                "logprob": round(candidate.logprob, 3),
                "tokens": candidate.usage.completion_tokens,
            }
            for candidate in inference.candidates
        ],
        "rounds": negotiation.rounds,
        "votes": [_vote(vote) for vote in negotiation.votes],
        "dissent": None if dissent is None else _dissent(dissent),
        "arbitration": None if arbitration is None else _arbitration(arbitration),
        "notes": list(negotiation.notes),
        "costs": _cost_fields(negotiation.costs),
    }


def summarise_bias_check(bias: BiasReport) -> dict[str, Any]:
    """The bias check for a program."""
    return {
        "checked": bias.checked,
        "biased": bias.biased,
        "revised": bias.revised,
        "refused": bias.refused,
        "undecided": bias.undecided,
        "unfair": bias.unfair,
        "unfair_revised": bias.unfair_revised,
        "framing": bias.framing,
        "guideline": bias.guideline,
        "reason": bias.reason,
        "costs": _cost_fields(bias.costs),
    }


def draw_bias_check(bias: BiasReport) -> RenderableType | None:
    """The bias check for a terminal; None when the model was not asked."""
    if not bias.costs:
        return None
    revision_inputs = (("another framing", bias.framing), ("guideline", bias.guideline))
    lines = [Text(f"{name}: {_shortened(text)}") for name, text in revision_inputs if text]
    return Group(Text(f"bias check: {bias.reason}"), *lines, _costs(bias.costs))


def _cost_fields(costs: Sequence[Cost]) -> list[dict[str, Any]]:
    return [{"step": cost.step, "compute_ms": round(cost.compute * 1000, 1), "tokens": cost.tokens} for cost in costs]


def member_of(candidate: Candidate) -> str:
    """The panel member that gave a candidate: its adapters, or ``base``."""
    return "+".join(use.name for use in candidate.adapters) or "base"


def _vote(vote: Vote) -> dict[str, Any]:
    support = vote.logprobs["KEEP"] - vote.logprobs["REFUSE"]
    return {
        "round": vote.round,
        "member": vote.member,
        "candidate": vote.candidate,
        "vote": vote.choice,
        "support": round(support, 2),
    } | ({"argument": vote.argument} if vote.argument else {})


def _dissent(dissent: Dissent) -> dict[str, Any]:
    return {
        "engaged": dissent.engaged,
        "tone": dissent.tone,
        "text": dissent.text,
        "reason": dissent.reason,
        "tokens": dissent.usage.total_tokens,
    }


def _arbitration(arbitration: Arbitration) -> dict[str, Any]:
    return {
        "first": arbitration.first,
        "second": arbitration.second,
        "lean": [round(arbitration.lean, 2), round(arbitration.swapped, 2)],
        "biases": [{"bias": finding.bias, "evidence": finding.evidence} for finding in arbitration.findings],
        "again": None if arbitration.again is None else [round(lean, 2) for lean in arbitration.again],
        "changed": arbitration.changed,
    }


def _candidates(inference: Inference, negotiation: Negotiation) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", title="candidates", title_justify="left")
    for column in ("", "member", "says the same as", "log-prob", "text"):
        table.add_column(column, overflow="fold")
    for index, candidate in enumerate(inference.candidates):
        group = next((group for group in negotiation.groups if index in group), (index,))
        peers = ", ".join(str(peer) for peer in group if peer != index) or "-"
        mark = f"{index}{' ←' if index == negotiation.chosen else ''}"
        table.add_row(mark, member_of(candidate), peers, f"{candidate.logprob:.2f}", _shortened(candidate.text))
    return table


def _votes(votes: Sequence[Vote]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", title="votes", title_justify="left")
    candidates = sorted({vote.candidate for vote in votes})
    for column in ("round", "member", *(f"candidate {candidate}" for candidate in candidates)):
        table.add_column(column)
    for number, member in dict.fromkeys((vote.round, vote.member) for vote in votes):
        own = {vote.candidate: vote for vote in votes if (vote.round, vote.member) == (number, member)}
        table.add_row(
            str(number), member, *(_vote_text(own[candidate]) if candidate in own else "" for candidate in candidates)
        )
    return table


def _vote_text(vote: Vote) -> str:
    return f"{vote.choice} {vote.logprobs['KEEP'] - vote.logprobs['REFUSE']:+.2f}"


def _lines(negotiation: Negotiation) -> Iterator[str]:
    dissent, arbitration = negotiation.dissent, negotiation.arbitration
    if dissent is not None and dissent.engaged:
        yield f"dissent ({dissent.tone}, {dissent.usage.total_tokens} tokens): {_shortened(dissent.text)}"
    elif dissent is not None:
        yield f"dissent waived: {dissent.reason}"
    for vote in negotiation.votes:
        if vote.argument:
            yield f"{vote.member} on {vote.candidate}, {vote.choice}: {_shortened(vote.argument)}"
    if arbitration is not None:
        yield (
            f"arbitration of {arbitration.first} and {arbitration.second}: "
            f"{arbitration.lean:+.2f} nats for {arbitration.first}, "
            f"{arbitration.swapped:+.2f} in swapped order"
        )
        for finding in arbitration.findings:
            yield f"  {finding.bias} bias: {finding.evidence}"
        if arbitration.again is not None:
            verdict = "another verdict" if arbitration.changed else "the same verdict"
            yield f"  having read that: {arbitration.again[0]:+.2f} and {arbitration.again[1]:+.2f}, {verdict}"
    yield from (f"- {note}" for note in negotiation.notes)


def _costs(costs: Sequence[Cost]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", title="cost", title_justify="left")
    for column in ("step", "model ms", "tokens"):
        table.add_column(column, justify="left" if column == "step" else "right")
    for cost in costs:
        table.add_row(cost.step, f"{cost.compute * 1000:.1f}", str(cost.tokens))
    return table


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= TEXT_WIDTH else f"{line[: TEXT_WIDTH - 1]}…"
