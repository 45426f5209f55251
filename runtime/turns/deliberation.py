"""How a turn was decided, as JSON: panel, votes, dissent, arbitration, bias check, and the cost of each step."""

from collections.abc import Sequence
from typing import Any

from schemas.findings import Arbitration, BiasReport, Candidate, Cost, Dissent, Inference, Negotiation, Vote


def summarise_deliberation(inference: Inference, negotiation: Negotiation) -> dict[str, Any]:
    """The deliberation as JSON fields; times in milliseconds, leans and supports in nats."""
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
    """The bias check as JSON fields."""
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
