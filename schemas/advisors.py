"""Requests of the advisors: what another service thinks of a prompt's domains."""

from typing import Annotated

from msgspec import Meta

from schemas.base import WireStruct

ADVISORS = ("nerve-wml", "kiki-flow")
"""Who may advise the router, at ``svc.advise.<name>``."""


class AdviseRequest(WireStruct, frozen=True, kw_only=True):
    """What an advisor (nerve-wml, kiki-flow) is told of a turn before its domains are chosen.

    ``embedding`` is the query's unit vector; ``scores`` are the router's calibrated probabilities by output. An
    advisor with a state steps it once a ``turn_id``: asked again, it gives the same advice again.
    """

    turn_id: str
    text: str
    embedding: tuple[float, ...]
    scores: dict[str, float]


class AdviseReply(WireStruct, frozen=True, kw_only=True):
    """Advice; empty when the advisor has none.

    ``domains`` are probabilities by niche domain, and are blended; ``payload`` is what is recorded in the event, as
    the advisor says it (a weight by stack, say).
    """

    domains: dict[str, Annotated[float, Meta(ge=0.0, le=1.0)]] = {}
    payload: dict[str, float] = {}
