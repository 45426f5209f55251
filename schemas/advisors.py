"""Requests to advisors: another service's opinion of a prompt's domains."""

from typing import Annotated

from msgspec import Meta

from schemas.base import WireStruct
from schemas.numbers import Component, Number

ADVISORS = ("nerve-wml", "kiki-flow")
"""The services that may advise the router; each answers at ``svc.advise.<name>``."""


class AdviseRequest(WireStruct, frozen=True, kw_only=True):
    """What an advisor (nerve-wml, kiki-flow) gets to know of a turn before the turn's domains are chosen.

    ``embedding`` is the query's unit vector; ``scores`` are the router's calibrated probabilities by output. An
    advisor that keeps a state advances it once for each ``turn_id``: a repeated request gets the same advice.
    """

    turn_id: str
    text: str
    embedding: tuple[Component, ...]
    scores: dict[str, Number]


class AdviseReply(WireStruct, frozen=True, kw_only=True):
    """Advice; empty when the advisor has none.

    ``domains`` are probabilities by niche domain, which the router blends into its scores. ``payload`` is recorded in
    the event as the advisor gave it (a weight by stack, say).
    """

    domains: dict[str, Annotated[float, Meta(ge=0.0, le=1.0)]] = {}
    payload: dict[str, float] = {}
