"""How a turn was decided, as tables for a terminal: candidates, votes, dissent, arbitration, bias check, and cost."""

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from runtime.turns.deliberation import member_of
from runtime.turns.waterfall import shortened
from schemas.findings import BiasReport, Cost, Inference, Negotiation, Vote

TEXT_WIDTH = 72
"""Characters to which a text is shortened."""


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


def draw_bias_check(bias: BiasReport) -> RenderableType | None:
    """The bias check for a terminal; None when the model was not asked."""
    if not bias.costs:
        return None
    revision_inputs = (("another framing", bias.framing), ("guideline", bias.guideline))
    lines = [Text(f"{name}: {shortened(text, TEXT_WIDTH)}") for name, text in revision_inputs if text]
    return Group(Text(f"bias check: {bias.reason}"), *lines, _costs(bias.costs))


def _candidates(inference: Inference, negotiation: Negotiation) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", title="candidates", title_justify="left")
    for column in ("", "member", "says the same as", "log-prob", "text"):
        table.add_column(column, overflow="fold")
    for index, candidate in enumerate(inference.candidates):
        group = next((group for group in negotiation.groups if index in group), (index,))
        peers = ", ".join(str(peer) for peer in group if peer != index) or "-"
        mark = f"{index}{' ←' if index == negotiation.chosen else ''}"
        table.add_row(
            mark, member_of(candidate), peers, f"{candidate.logprob:.2f}", shortened(candidate.text, TEXT_WIDTH)
        )
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
        yield f"dissent ({dissent.tone}, {dissent.usage.total_tokens} tokens): {shortened(dissent.text, TEXT_WIDTH)}"
    elif dissent is not None:
        yield f"dissent waived: {dissent.reason}"
    for vote in negotiation.votes:
        if vote.argument:
            yield f"{vote.member} on {vote.candidate}, {vote.choice}: {shortened(vote.argument, TEXT_WIDTH)}"
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
